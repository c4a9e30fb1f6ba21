// Package embedded runs the servers that a laptop does not have: Kafka by
// kfake with a data directory, Redis by miniredis with its clock driven, and
// Postgres by the machine's own binaries or by ones that a library brings.
//
// It never serves another host: everything listens on 127.0.0.1 only, and
// Postgres asks for a generated password even there. It knows nothing of
// tasks, topics or tables; it only starts servers, and stops what it started.
//
// # What survives
//
// Kafka's and Postgres's data survive a restart, also after SIGKILL of this
// process or of the server (Kafka's newest records are in the page cache, not
// yet on disk: they survive a killed process, not a power cut). Redis starts
// empty, which is the flushed Redis that the claims are built for (I2 then
// rests on the incarnation, DESIGN 3.6).
//
// # Processes
//
// The only child processes are Postgres's. On Linux the kernel sends the
// postmaster a fast-shutdown signal when this process dies, however it dies;
// elsewhere, and as a second line, the next [StartPostgres] on the directory
// finds what is left by its postmaster.pid, verifies that it is a postgres
// running on that directory, and stops it first. One process at a time may
// use a directory: take [LockDir] before starting anything in it.
//
// Unix only (Linux and macOS); on Windows use WSL or real servers.
package embedded

// Package usage tells how much CPU time each part of a system took: our own
// process tree, and the servers it talks to, as far as they run on this machine.
//
// A server is found by the socket that it listens on and counted as a whole
// process tree: Postgres is its postmaster with every backend, also those that
// have ended. It reads /proc and nothing else, so it knows Linux only and sees
// what the kernel does for a process, but not what kernel threads do (writeback,
// interrupts). The clock of /proc ticks at 10 ms: measure seconds, not moments.
//
// It keeps none of the invariants I1–I11: it only looks.
package usage

// Package doctor looks at the servers and settings that Perdure depends on and
// says what is wrong, why it matters and how to mend it. It changes nothing.
//
// A finding is fail where tasks can be lost, run twice or not run at all, warn
// where that takes one more thing to go wrong. It serves I1 and I2 where the
// code cannot: fsync, eviction, in-sync replicas and retention are other
// people's switches.
package doctor

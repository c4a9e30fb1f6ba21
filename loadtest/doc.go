// Package loadtest holds what judges Perdure from outside: an endpoint that
// keeps a ledger of what really reached it, and tests that run the binary as a
// user would, on real servers where there are any.
//
// It never looks into a part's memory: only at the ledger, the topics and the
// command line's answers. It checks I1, I2 and I3 on whole runs.
package loadtest

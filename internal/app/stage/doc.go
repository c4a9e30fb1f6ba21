// Package stage is a Perdure to be loaded, for loadtest/run: every role and one
// worker in this process, on the servers that the environment names, with a
// database, topics and keys of its own, or on embedded ones. When it is closed
// nothing of it is left.
//
// It stands beside the wiring that it uses (internal/app), as a load test may
// not import roles. It holds no invariant itself and measures nothing.
package stage

// Package claims decides who may run a task now. It keeps the claim's state
// machine in Redis: who runs a task, what waits, what is dead, what is done.
//
// It never runs, produces or acknowledges anything: its callers do what the
// Verdict says. It keeps I2 (with the inbox or a fence), I5 and I10: no decision
// reads another host's clock.
package claims

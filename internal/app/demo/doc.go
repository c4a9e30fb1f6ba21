// Package demo runs the dispute workflow of examples/disputes from its input
// file to its ledger: a bank that goes away in the middle, a worker process that
// is killed, dead letters that are replayed by group.
//
// It uses Perdure from outside, by its API and its SQL, except that it starts
// the roles in its own process. What it says at the end it computes from the
// ledger, never from what it believes it did; it checks I1, I2 and I7.
package demo

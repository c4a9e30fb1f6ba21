// Package balance answers one question about a running system: where is every
// task that was accepted? Each is completed, waiting, dead, discarded or
// cancelled; what is in none of these places is lost, and named.
//
// Acceptance is read from the outbox, which producers write; the places are read
// from where the tasks would be found by whoever must work on them next. No part
// is asked what it believes to have done: no counter, no metric. So this is the
// check of I1, and partly of I3, on production as in tests.
//
// It writes nothing, holds no lock, and looks at 32,768 ids at a time.
package balance

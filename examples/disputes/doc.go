// Package disputes is a whole workflow on Perdure: a customer contests a
// charge, we look it up at the bank, and pay back what is due, once.
//
//	dispute.intake       stores the dispute and enqueues the next, in one transaction
//	dispute.investigate  asks the bank; waits while it is away, dies when it says no
//	dispute.resolve      writes the refund, with its inbox record, in one transaction
//
// `perdure demo` runs it. The table of refunds has no unique constraint on
// purpose: if an effect were ever applied twice, the [Ledger] would see it. It
// shows I1 (every accepted dispute ends or is visibly dead), I2 and I7.
package disputes

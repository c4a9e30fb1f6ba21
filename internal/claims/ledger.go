package claims

// The incarnation's memory outside Redis.

import "context"

// Ledger remembers the highest incarnation ever raised, where a lost Redis
// cannot take it along.
type Ledger interface {
	// Last returns the highest incarnation that any Raise had acknowledged before
	// this call began, or a higher one; 0 if there never was one.
	Last(ctx context.Context) (int64, error)
	// Raise records n durably, and returns when it is.
	Raise(ctx context.Context, n int64) error
}

package replayer

// Conditions over letters are dlq's: its lists have them too.

import (
	"math"

	"github.com/perdure/perdure/dlq"
)

// SyntaxError is wrong text of a program, with where it is wrong.
type SyntaxError = dlq.SyntaxError

// candidate is a letter as a condition sees it.
type candidate = dlq.Candidate

// share is n of all, 0 of none.
func share(n, all int64) float64 {
	if all == 0 {
		return 0
	}
	return float64(n) / float64(all)
}

// atMost is the greatest whole number of misses that a bar allows.
func atMost(n int, success float64) int64 {
	return int64(math.Floor(float64(n)*(1-success) + 1e-9))
}

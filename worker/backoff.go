package worker

// When a failed attempt is tried again.

import (
	"math/rand/v2"
	"time"

	"github.com/perdure/perdure/schemas"
)

// backoff is the delay before attempt n+1, after attempt n failed: exponential
// with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015), and
// never before what the failure itself asked for.
func backoff(r schemas.Retry, n int, after time.Duration) time.Duration {
	delay := time.Duration(0)
	if ceiling := backoffCeiling(r, n); ceiling > 0 {
		delay = rand.N(ceiling) + 1
	}
	return max(delay, after)
}

// backoffCeiling is the longest delay that backoff may choose by itself.
func backoffCeiling(r schemas.Retry, n int) time.Duration {
	ceiling := r.InitialDelay
	for i := 1; i < n && ceiling < r.MaxDelay; i++ {
		ceiling *= 2
	}
	return min(ceiling, r.MaxDelay)
}

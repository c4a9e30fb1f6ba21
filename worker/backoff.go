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
	ceiling := r.InitialDelay
	for i := 1; i < n && ceiling < r.MaxDelay; i++ {
		ceiling *= 2
	}
	ceiling = min(ceiling, r.MaxDelay)
	delay := time.Duration(0)
	if ceiling > 0 {
		delay = rand.N(ceiling) + 1
	}
	return max(delay, after)
}

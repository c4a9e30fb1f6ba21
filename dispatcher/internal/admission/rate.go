package admission

// Tasks a second: a token bucket for each name, in this process.

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/perdure/perdure/internal/api"
)

// breath is the least that a stream waits once its bucket is empty, so that the
// lines that come next find more than one task's worth and share a commit.
const breath = 25 * time.Millisecond

type bucket struct {
	*rate.Limiter
	breath time.Duration
}

func newBucket(l api.Limits) *bucket {
	// Waiting longer than it takes to fill the bucket would waste of the rate.
	full := time.Duration(float64(l.Burst-1) / l.Rate * float64(time.Second))
	return &bucket{rate.NewLimiter(rate.Limit(l.Rate), l.Burst), min(breath, full)}
}

// Take takes n tasks of the rate at once; the problem says when there will be as
// many.
func (p *Producer) Take(n int) *api.Problem {
	if p.rate == nil || n == 0 {
		return nil
	}
	if n > p.limits.Burst {
		return tooMany(fmt.Sprintf("an array of %d tasks can never pass: token %s may enqueue %d at once", n, p.name, p.limits.Burst), p.limits.Burst)
	}
	now := p.gate.now()
	if p.rate.AllowN(now, n) {
		return nil
	}
	short := float64(n) - p.rate.TokensAt(now)
	return p.limited(time.Duration(short / p.limits.Rate * float64(time.Second)))
}

// TakeNow takes one task of the rate if there is one.
func (p *Producer) TakeNow() bool { return p.rate == nil || p.rate.AllowN(p.gate.now(), 1) }

// Await takes one task of the rate and waits for it, in the order of those who
// wait. The problem: that would take longer than most, or ctx ended.
func (p *Producer) Await(ctx context.Context, most time.Duration) *api.Problem {
	if p.rate == nil {
		return nil
	}
	now := p.gate.now()
	r := p.rate.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	if wait > most {
		r.CancelAt(now)
		return p.limited(wait)
	}
	if !sleep(ctx, max(wait, p.rate.breath)) {
		r.CancelAt(p.gate.now())
		return stopped()
	}
	return nil
}

func (p *Producer) limited(wait time.Duration) *api.Problem {
	return api.NewProblem(http.StatusTooManyRequests, "rate-limited",
		fmt.Sprintf("token %s may enqueue %g tasks a second, %d at once, in each dispatcher; nothing was accepted", p.name, p.limits.Rate, p.limits.Burst)).
		WithRetryAfter(max(wait, time.Millisecond)).
		WithNext("send the same again after Retry-After; application/x-ndjson is slowed down instead of refused; more: rate in PERDURE_API_TOKENS_FILE")
}

// tooMany is a post that no waiting helps.
func tooMany(detail string, most int) *api.Problem {
	return api.NewProblem(http.StatusRequestEntityTooLarge, "too-many-tasks", detail).
		WithNext(fmt.Sprintf("send arrays of at most %d, or one task a line as application/x-ndjson", most))
}

func stopped() *api.Problem {
	return api.NewProblem(http.StatusServiceUnavailable, "stopping", "the request or the dispatcher ended before the task's turn came").
		WithRetryAfter(time.Second).WithNext("send it again")
}

// sleep reports whether it was not cut short by ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

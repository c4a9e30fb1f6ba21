package admission

// Closing the gate while too many rows of the outbox wait for the relay: it is
// away or slower than the producers, and the disk under Postgres is finite.

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/api"
)

const (
	measureEvery = time.Second
	measureFor   = 10 * time.Second // at most, for one measurement
	believeFor   = 30 * time.Second // a measurement, while none succeeds after it
	backlogRetry = 5 * time.Second
	reopenBelow  = 0.9 // of the limit
)

type backlog struct {
	limit int64 // 0 = none

	mu     sync.Mutex
	rows   int64         // measured last
	at     time.Time     // when; zero = not yet
	closed chan struct{} // nil while the gate is open; else closed when it opens
}

func newBacklog(limit int64) *backlog { return &backlog{limit: limit} }

// seen takes a measurement over, and reports whether it opened or closed the
// gate.
func (b *backlog) seen(rows int64, at time.Time) (changed, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows, b.at = rows, at
	switch {
	case b.closed == nil && rows >= b.limit:
		b.closed = make(chan struct{})
		return true, true
	case b.closed != nil && float64(rows) < reopenBelow*float64(b.limit):
		b.open()
		return true, false
	}
	return false, b.closed != nil
}

// missed says that a measurement failed, and reports whether that opened the
// gate: a figure that old says nothing, and a Postgres that is away refuses by
// itself.
func (b *backlog) missed(at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil || at.Sub(b.at) < believeFor {
		return false
	}
	b.open()
	return true
}

func (b *backlog) open() {
	close(b.closed)
	b.closed = nil
}

func (b *backlog) state() (rows int64, opens <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rows, b.closed
}

// Closed is nil while the gate is open, else the problem of every post.
func (g *Gate) Closed() *api.Problem {
	rows, opens := g.backlog.state()
	if opens == nil {
		return nil
	}
	return api.NewProblem(http.StatusServiceUnavailable, "backlog",
		fmt.Sprintf("about %d tasks wait for the relay, and PERDURE_OUTBOX_LIMIT is %d; nothing was accepted", rows, g.backlog.limit)).
		WithRetryAfter(backlogRetry).
		WithNext("send the same again after Retry-After; perdure outbox status says whether a relay moves them")
}

// AwaitOpen waits until the gate is open. The problem: that took longer than most,
// or ctx ended.
func (g *Gate) AwaitOpen(ctx context.Context, most time.Duration) *api.Problem {
	_, opens := g.backlog.state()
	if opens == nil {
		return nil
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-opens:
		return nil
	case <-timer.C:
		return g.Closed()
	case <-ctx.Done():
		return stopped()
	}
}

// measure looks once a second, at once at the start.
func (g *Gate) measure(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		g.measureOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *Gate) measureOnce(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, measureFor)
	defer cancel()
	rows, err := countBacklog(asked, g.db, g.backlog.limit, countUpTo)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		g.log.WarnContext(ctx, "the outbox's backlog could not be measured", "error", err)
		if g.backlog.missed(g.now()) {
			g.log.WarnContext(ctx, "tasks are accepted again: the last measurement is too old", "limit", g.backlog.limit)
		}
	default:
		changed, closed := g.backlog.seen(rows, g.now())
		if changed && closed {
			g.log.WarnContext(ctx, "tasks are refused: too many wait for the relay", "rows", rows, "limit", g.backlog.limit)
		} else if changed {
			g.log.InfoContext(ctx, "tasks are accepted again", "rows", rows, "limit", g.backlog.limit)
		}
	}
}

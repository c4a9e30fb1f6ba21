package worker_test

// I11: a kind that hangs does not slow another down.

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

func TestAKindThatHangsDoesNotSlowAnother(t *testing.T) {
	w := newWorld(t, `
version: 1
queues:
  jobs: {partitions: 4, replication: 1}
kinds:
  job.run: {queue: jobs}
  job.slow: {queue: jobs, timeout: 60s}
`)
	release := make(chan struct{})
	var hanging, done atomic.Int64
	var mu sync.Mutex
	var ended time.Time
	w.start("a", func(c *worker.Config) { c.Concurrency = 8 }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.slow", func(ctx context.Context, _ *worker.Task[job]) error {
			hanging.Add(1)
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		worker.Handle(wk, "job.run", func(ctx context.Context, _ *worker.Task[job]) error {
			select {
			case <-time.After(4 * time.Millisecond): // the work
			case <-ctx.Done():
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			done.Add(1)
			ended = time.Now()
			return nil
		})
	})
	const n = 500
	measure := func() time.Duration {
		target := done.Load() + n
		began := time.Now()
		w.sendJobs(n)
		testkit.Eventually(t, wait, func() (bool, string) { return done.Load() == target, "the fast kind starves" })
		mu.Lock()
		defer mu.Unlock()
		return ended.Sub(began)
	}
	control := measure()
	var slow []schemas.Task
	for i := range 100 {
		slow = append(slow, w.task("job.slow", job{N: i}))
	}
	w.send(slow...)
	testkit.Eventually(t, wait, func() (bool, string) { return hanging.Load() >= 4, "nothing hangs" })
	beside := measure()
	t.Logf("alone %v, beside 100 that hang %v", control, beside)
	if beside > 2*control {
		t.Errorf("%d tasks took %v beside a kind that hangs, and %v alone", n, beside, control)
	}
	if h := hanging.Load(); h != 4 {
		t.Errorf("%d tasks hang in 8 slots, want the kind's half", h)
	}
	close(release)
	w.committedAll("jobs")
}

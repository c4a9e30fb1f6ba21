package worker_test

// I11: a kind that hangs, or fails again and again, does not slow another down.

import (
	"context"
	"errors"
	"slices"
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

// TestAKindThatFailsDoesNotSlowAnother: a backlog of a kind whose attempts all take
// their time and fail, retries and letters and all, beside tasks that come one by one.
func TestAKindThatFailsDoesNotSlowAnother(t *testing.T) {
	const slots, flood, gap = 4, 2000, 10 * time.Millisecond
	w := newWorld(t, `
version: 1
queues:
  jobs: {partitions: 4, replication: 1}
kinds:
  job.run: {queue: jobs}
  job.bad: {queue: jobs, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
`)
	var failed atomic.Int64
	began := make(chan time.Time, 1)
	work := func(ctx context.Context) error {
		select {
		case <-time.After(5 * time.Millisecond):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.start("a", func(c *worker.Config) { c.Concurrency = slots }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.bad", func(ctx context.Context, _ *worker.Task[job]) error {
			failed.Add(1)
			return errors.Join(errors.New("never"), work(ctx))
		})
		worker.Handle(wk, "job.run", func(ctx context.Context, _ *worker.Task[job]) error {
			began <- time.Now()
			return work(ctx)
		})
	})
	// measure sends tasks one by one and returns the median of what they waited.
	measure := func() time.Duration {
		waited := make([]time.Duration, 60)
		for i := range waited {
			sent := time.Now()
			w.sendJobs(1)
			waited[i] = (<-began).Sub(sent)
			time.Sleep(gap)
		}
		slices.Sort(waited)
		return waited[len(waited)/2]
	}
	measure() // warm
	alone := measure()
	bad := make([]schemas.Task, flood)
	for i := range bad {
		bad[i] = w.task("job.bad", job{N: i})
	}
	w.send(bad...)
	testkit.Eventually(t, wait, func() (bool, string) { return failed.Load() > 100, "nothing fails" })
	beside := measure()
	left := flood*3 - int(failed.Load())
	t.Logf("median from send to start: alone %v, beside %v, with %d attempts that fail still to come", alone, beside, left)
	// With the failing kind first it would be the whole backlog: seconds.
	if beside > 5*alone+100*time.Millisecond {
		t.Errorf("a task waits %v beside a kind that fails, and %v alone", beside, alone)
	}
	if left <= 0 {
		t.Error("the backlog was gone before the measurement was: it shows nothing")
	}
}

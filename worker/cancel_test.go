package worker_test

// A cancel of a task that runs.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const longCatalog = `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 60s, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
  job.once: {queue: jobs, timeout: 60s, effects: once}
`

func TestACancelEndsARunningTask(t *testing.T) {
	w := newWorld(t, longCatalog)
	l := newLedger()
	ended := make(chan time.Time, 1)
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Payload.Mode != "long" {
				return l.applied(task.ID, task.Run)
			}
			<-ctx.Done()
			ended <- time.Now()
			return ctx.Err()
		})
		worker.Handle(wk, "job.once", func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			<-ctx.Done()
			if task.Payload.Mode == "done" {
				return nil // it had gone through
			}
			return errors.Join(ctx.Err(), errors.New("cut off"))
		})
	})
	store := w.store()
	long, doubt, through := w.task("job.run", job{Mode: "long"}), w.task("job.once", job{}), w.task("job.once", job{Mode: "done"})
	w.send(long, doubt, through)
	var asked time.Time
	for _, task := range []schemas.Task{doubt, through, long} {
		testkit.Eventually(t, wait, func() (bool, string) { return l.runsOf(task.ID) == 1, "does not run" })
		asked = time.Now()
		c, err := store.Cancel(t.Context(), task.ID)
		if err != nil || c.State != claims.Running || !c.Cancel {
			t.Fatalf("cancel: %+v, %v", c, err)
		}
	}
	if took := (<-ended).Sub(asked); took > time.Second {
		t.Errorf("its context ended %v after the cancel", took)
	}
	w.committedAll("jobs")
	states := w.claims(long.ID, doubt.ID, through.ID)
	if states[0].State != claims.Cancelled || states[2].State != claims.Done {
		t.Errorf("claims %+v", states)
	}
	// Nobody knows what the other one did: that is not a cancelled task.
	if letters := w.letters("jobs"); len(letters) != 1 || letters[0].TaskID != doubt.ID || letters[0].Reason != schemas.ReasonUnknown {
		t.Errorf("letters %+v", letters)
	}
	testkit.Eventually(t, wait, func() (bool, string) {
		for _, r := range w.read(w.names.Events("jobs")) {
			if e, err := dlq.DecodeEvent(r); err == nil && e.Type == dlq.EventCancelled && e.TaskID == long.ID {
				return true, ""
			}
		}
		return false, "no event"
	})
	w.send(long) // a relay's repeat
	w.committedAll("jobs")
	if n := l.runsOf(long.ID); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func TestACancelledHandlerThatIgnoresItsContextIsAbandoned(t *testing.T) {
	w := newWorld(t, longCatalog)
	l := newLedger()
	hold := make(chan struct{})
	a := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			<-hold
			return errors.New("too late")
		})
		worker.Handle(wk, "job.once", func(context.Context, *worker.Task[job]) error { return nil })
	})
	task := w.task("job.run", job{})
	w.send(task)
	testkit.Eventually(t, wait, func() (bool, string) { return l.runsOf(task.ID) == 1, "does not run" })
	if _, err := w.store().Cancel(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, wait, func() (bool, string) {
		c := w.claims(task.ID)[0]
		return c.State == claims.Cancelled, fmt.Sprintf("claim %+v", c)
	})
	if a.count(t, "perdure_worker_abandoned_total", "job.run") != 1 {
		t.Error("it is not counted as abandoned")
	}
	close(hold)
	w.committedAll("jobs")
	if len(w.letters("jobs")) != 0 {
		t.Error("a cancelled task left a letter")
	}
}

// TestACancelEndsOneOfManyRunningTasks: a look at what is cancelled leaves nobody out.
func TestACancelEndsOneOfManyRunningTasks(t *testing.T) {
	const running, every = 3000, 10
	w := newWorld(t, strings.Replace(longCatalog, "timeout: 60s", "timeout: 10m", 1))
	var mu sync.Mutex
	began, ended := 0, map[string]time.Time{}
	release := make(chan struct{})
	// A kind alone with work may have half of the slots.
	w.start("a", func(c *worker.Config) { c.Concurrency = 2 * running }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			mu.Lock()
			began++
			mu.Unlock()
			select {
			case <-release:
			case <-ctx.Done():
				mu.Lock()
				ended[task.ID] = time.Now()
				mu.Unlock()
			}
			return ctx.Err()
		})
		worker.Handle(wk, "job.once", func(context.Context, *worker.Task[job]) error { return nil })
	})
	ids := w.sendJobs(running)
	testkit.Eventually(t, wait, func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		return began == running, fmt.Sprint(began, " run")
	})
	store, asked := w.store(), map[string]time.Time{}
	for i := 0; i < running; i += every {
		asked[ids[i]] = time.Now()
		if c, err := store.Cancel(t.Context(), ids[i]); err != nil || !c.Cancel {
			t.Fatalf("cancel: %+v, %v", c, err)
		}
	}
	testkit.Eventually(t, wait, func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		return len(ended) == running/every, fmt.Sprint(len(ended), " have ended")
	})
	var longest time.Duration
	for id, at := range asked {
		if ended[id].IsZero() {
			t.Errorf("%s was cancelled and has not ended", id)
		}
		longest = max(longest, ended[id].Sub(at))
	}
	if longest > 3*time.Second { // a second, and the patience of a busy machine
		t.Errorf("a context ended %v after the cancel", longest)
	}
	close(release)
	w.committedAll("jobs")
}

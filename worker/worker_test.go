package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

func TestTasksCompleteOnceAndAreCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Fence() != fmt.Sprintf("%019d", task.Run) || task.Attempt != 1 || task.Queue != "jobs" {
				return worker.Permanent(fmt.Errorf("task %+v", task))
			}
			return l.applied(task.ID, task.Run)
		})
	})
	ids := w.sendJobs(500)
	l.doneWithin(t, len(ids))
	w.committedAll("jobs")
	for _, c := range w.claims(ids...) {
		if c.State != claims.Done {
			t.Errorf("a claim is %+v, its task completed", c)
		}
	}
	if started, done, twice := l.count(); started != 500 || done != 500 || twice != 0 {
		t.Errorf("started %d, done %d, twice %d; want 500, 500, 0", started, done, twice)
	}
	for _, id := range ids {
		if n := l.runsOf(id); n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d dead letters", len(letters))
	}
}

func TestTheSameRecordTwiceRunsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	task := w.task("job.run", job{N: 1})
	w.send(task, task, task)
	a := w.start("a", nil, ledgered(l))
	w.committedAll("jobs")
	w.send(task) // and once more, after it was done
	w.committedAll("jobs")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start("b", nil, ledgered(l))
	w.send(task) // and to one that never ran it
	w.committedAll("jobs")
	if n := l.runsOf(task.ID); n != 1 {
		t.Errorf("ran %d times, want once", n)
	}
}

func TestAShortRetryWaitsInTheWorker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	task := w.task("job.run", job{N: 1})
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			if n := l.began(task.ID, task.Run); n < 3 {
				return fmt.Errorf("failure %d", n)
			}
			if task.Attempt != 3 {
				return worker.Permanent(fmt.Errorf("attempt %d", task.Attempt))
			}
			return l.applied(task.ID, task.Run)
		})
	})
	w.send(task)
	l.doneWithin(t, 1)
	w.committedAll("jobs")
	for i := 1; i < 3; i++ {
		if l.runs[task.ID][i] <= l.runs[task.ID][i-1] {
			t.Errorf("runs %v do not grow", l.runs[task.ID])
		}
	}
	if n := len(w.read(w.names.Retry("5s"))); n != 0 {
		t.Errorf("%d records on the delay topic for a delay of milliseconds", n)
	}
	var events []*kgo.Record // nothing waits for them
	testkit.Eventually(t, wait, func() (bool, string) {
		events = w.read(w.names.Events("jobs"))
		return len(events) >= 2, fmt.Sprintf("%d events, want one for each failed attempt", len(events))
	})
	if len(events) != 2 {
		t.Fatalf("%d events, want one for each failed attempt", len(events))
	}
	e, err := dlq.DecodeEvent(events[0])
	if err != nil || e.Type != dlq.EventFailed || e.Message != "failure 1" || !strings.Contains(string(e.Data), "next_at") {
		t.Errorf("event %+v, %v", e, err)
	}
}

func TestALongRetryGoesThroughADelayTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	task := w.task("job.run", job{N: 1})
	task.Key, task.Headers = "customer 7", map[string]string{"tenant": "x"}
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			if l.began(task.ID, task.Run) == 1 {
				return worker.RetryAfter(40*time.Second, errors.New("later"))
			}
			if task.Attempt != 2 || task.Headers["tenant"] != "x" {
				return worker.Permanent(fmt.Errorf("%+v", task))
			}
			return l.applied(task.ID, task.Run)
		})
	})
	w.send(task)
	w.committedAll("jobs")
	var moved *kgo.Record
	testkit.Eventually(t, wait, func() (bool, string) {
		recs := w.read(w.names.Retry("30s"))
		if len(recs) == 1 {
			moved = recs[0]
		}
		return moved != nil, fmt.Sprintf("%d records on retry.30s", len(recs))
	})
	got, err := schemas.DecodeRecord(moved.Key, moved.Value, moved.Headers)
	if err != nil {
		t.Fatal(err)
	}
	first := l.runs[task.ID][0]
	if got.Attempt != 2 || got.Run != first || got.Queue != "jobs" || got.Key != "customer 7" || string(moved.Key) != "customer 7" {
		t.Errorf("retry record %+v, want attempt 2 after run %d", got, first)
	}
	if d := time.Until(got.Due); d < 30*time.Second || d > 41*time.Second {
		t.Errorf("due in %v, want about 40 s", d)
	}
	// The relay brings it back when it is due.
	got.Due = time.Time{}
	w.send(got)
	l.doneWithin(t, 1)
	w.committedAll("jobs")
	if runs := l.runs[task.ID]; len(runs) != 2 || runs[1] <= runs[0] {
		t.Errorf("runs %v, want two that grow", runs)
	}
}

func write(m map[string]int) error {
	m["x"] = 1
	return nil
}

func TestDeadLettersSayWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	kinds := map[string]func(context.Context) error{
		"permanent": func(context.Context) error { return worker.Permanent(errors.New("no such account 17")) },
		"exhausted": func(context.Context) error { return errors.New("again and again") },
		"panic":     func(context.Context) error { return write(nil) },
		"timeout":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			if task.Payload.Mode == "timeout" && task.Attempt > 1 {
				return worker.Permanent(errors.New("second attempt came"))
			}
			return kinds[task.Payload.Mode](ctx)
		})
	})
	ids := map[string]string{}
	var tasks []schemas.Task
	for mode := range kinds {
		task := w.task("job.run", job{Mode: mode})
		ids[mode] = task.ID
		tasks = append(tasks, task)
	}
	bad := w.task("job.run", "not an object")
	late := w.task("job.run", job{})
	late.Deadline = time.Now().Add(-time.Second)
	w.send(append(tasks, bad, late)...)
	letters := map[string]*dlq.Letter{}
	for _, l := range w.lettersWithin("jobs", 6) {
		letters[l.TaskID] = l
	}
	w.committedAll("jobs")

	check := func(id string, reason schemas.Reason, attempts int, class, message string) {
		t.Helper()
		l := letters[id]
		if l == nil {
			t.Fatalf("%s: no letter", id)
		}
		if l.Reason != reason || len(l.Attempts) != attempts || l.ErrorClass != class || !strings.Contains(l.Message, message) {
			t.Errorf("%s: reason %s, %d attempts, class %q, message %q; want %s, %d, %q, %q",
				id, l.Reason, len(l.Attempts), l.ErrorClass, l.Message, reason, attempts, class, message)
		}
	}
	check(ids["permanent"], schemas.ReasonPermanent, 1, "error", "no such account")
	check(ids["exhausted"], schemas.ReasonExhausted, 3, "error", "again and again")
	check(ids["panic"], schemas.ReasonExhausted, 3, "panic: runtime.plainError", "nil map")
	check(ids["timeout"], schemas.ReasonPermanent, 2, "error", "second attempt")
	check(bad.ID, schemas.ReasonPermanent, 1, "payload", "does not decode")
	check(late.ID, schemas.ReasonExpired, 0, "expired", "deadline")
	if s := letters[ids["panic"]].Attempts[0].Stack; !strings.Contains(strings.SplitN(s, "\n", 2)[0], "worker_test") {
		t.Errorf("the stack's first line is not where it panicked: %q", s)
	}
	if c := letters[ids["timeout"]].Attempts[0].ErrorClass; c != "timeout" {
		t.Errorf("class of a timeout is %q", c)
	}
	if l := letters[ids["permanent"]]; l.Run == 0 || l.Origin.Topic != w.names.Tasks("jobs") || l.Catalog != w.cat.Hash {
		t.Errorf("letter %+v", l)
	}
}

func TestAHandlerThatIgnoresItsContextIsAbandoned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(catalogText, "timeout: 2s", "timeout: 100ms", 1))
	l := newLedger()
	hold := make(chan struct{})
	var stuck atomic.Bool
	w.start("a", func(c *worker.Config) { c.Concurrency = 4 }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			if l.began(task.ID, task.Run) == 1 && task.Payload.Mode == "stuck" {
				stuck.Store(true)
				<-hold
				return errors.New("too late")
			}
			return l.applied(task.ID, task.Run)
		})
	})
	first := w.task("job.run", job{Mode: "stuck"})
	w.send(first)
	testkit.Eventually(t, wait, func() (bool, string) { return stuck.Load(), "not started" })
	ids := w.sendJobs(5)
	l.doneWithin(t, 6) // its slot was given back, and it was tried again
	w.committedAll("jobs")
	close(hold)
	if runs := l.runs[first.ID]; len(runs) != 2 || runs[1] <= runs[0] {
		t.Errorf("runs of the stuck task %v, want two that grow", runs)
	}
	for _, id := range ids {
		if l.runsOf(id) != 1 {
			t.Errorf("%s ran %d times", id, l.runsOf(id))
		}
	}
}

func TestALateSuccessOfAnAbandonedHandlerCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(catalogText, "timeout: 2s", "timeout: 100ms\n    effects: once", 1))
	hold := make(chan struct{})
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error {
			<-hold
			return nil
		})
	})
	id := w.sendJobs(1)[0]
	if l := w.lettersWithin("jobs", 1)[0]; l.Reason != schemas.ReasonUnknown || l.ErrorClass != "abandoned" {
		t.Errorf("letter %+v", l)
	}
	w.committedAll("jobs")
	close(hold)
	testkit.Eventually(t, wait, func() (bool, string) {
		c := w.claims(id)[0]
		return c.State == claims.Done, fmt.Sprintf("claim %+v", c)
	})
	testkit.Eventually(t, wait, func() (bool, string) {
		recs := w.read(w.names.DLQ("jobs"))
		return len(recs) == 2 && headerOf(recs[1], schemas.HeaderRecord) == "resolved", fmt.Sprint(len(recs), " records on the dead-letter topic")
	})
}

func TestARefusalToStartListsWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText+"  job.other: {queue: jobs}\n  job.third: {queue: jobs, order: key}\n")
	wk, _ := w.make("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error { return nil })
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error { return nil })
		worker.Handle(wk, "job.none", func(context.Context, *worker.Task[job]) error { return nil })
	})
	err := wk.Run(t.Context())
	for _, want := range []string{"job.other (queue jobs)", "registered twice", "job.none"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

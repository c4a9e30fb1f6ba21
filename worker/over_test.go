package worker_test

// Tasks that hold a unique key until they have ended: their end is told, once Kafka
// has it their record is acknowledged, and whoever is killed in between is followed
// by one who tells it.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// told is the ids of tasks whose end is on the topic of events, sorted.
func (w *world) told(queue string) (ids []string) {
	w.Helper()
	for _, r := range w.read(w.names.Events(queue)) {
		if e, err := dlq.DecodeEvent(r); err == nil && e.Type == dlq.EventReleased {
			ids = append(ids, e.TaskID)
		}
	}
	slices.Sort(ids)
	return ids
}

// holding makes a task that holds a unique key.
func (w *world) holding(payload job) schemas.Task {
	w.Helper()
	t := w.task("job.run", payload)
	t.Unique = true
	return t
}

// eventsTakeNothing takes the topic of events away, until the function that it
// returns is called.
func (w *world) eventsTakeNothing(queue string) (mend func()) {
	w.Helper()
	testkit.DeleteTopic(w, w.cl, w.names.Events(queue))
	return w.ensureTopics
}

func sortedIDs(tasks ...schemas.Task) (ids []string) {
	for _, t := range tasks {
		ids = append(ids, t.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestTheEndOfATaskThatHoldsAKeyIsToldOnceAndNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			switch {
			case task.Payload.Mode == "fails once" && task.Attempt == 1:
				return errors.New("no")
			case task.Payload.Mode == "dies":
				return worker.Permanent(errors.New("no"))
			case task.Payload.Mode == "is cancelled":
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
	})
	at1, retried, cancelled, dies := w.holding(job{}), w.holding(job{Mode: "fails once"}), w.holding(job{Mode: "is cancelled"}), w.holding(job{Mode: "dies"})
	w.send(w.task("job.run", job{}), at1, retried, cancelled, dies, w.task("job.run", job{Mode: "fails once"}))
	testkit.Eventually(t, wait, func() (bool, string) {
		c, err := w.store().Cancel(t.Context(), cancelled.ID)
		return err == nil && (c.State == claims.Running || c.State == claims.Cancelled), fmt.Sprint(c.State, err)
	})
	w.committedAll("jobs")
	// The dead one holds its key.
	if got, want := w.told("jobs"), sortedIDs(at1, retried, cancelled); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if letters := w.letters("jobs"); len(letters) != 1 || letters[0].TaskID != dies.ID {
		t.Errorf("letters %+v", letters)
	} else if again, err := schemas.DecodeRecord(letters[0].Key, letters[0].Value, letters[0].Headers); err != nil || !again.Unique {
		t.Errorf("the letter of a task that holds a key does not say so: %+v, %v", again, err)
	}
}

// A replayed task's end is told on the dead-letter topic, as before, and only there.
func TestTheEndOfAReplayedTaskIsItsResolution(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	w.start("a", nil, ledgered(newLedger()))
	replayed := w.holding(job{})
	replayed.Epoch = 1
	w.send(replayed)
	w.committedAll("jobs")
	resolved := 0
	for _, r := range w.read(w.names.DLQ("jobs")) {
		if headerOf(r, schemas.HeaderRecord) == "resolved" && headerOf(r, schemas.HeaderID) == replayed.ID {
			resolved++
		}
	}
	if told := w.told("jobs"); resolved != 1 || len(told) != 0 {
		t.Errorf("resolved %d times, told %v", resolved, told)
	}
}

// What an earlier worker wrote into the claims before it was killed: the record that
// comes again tells the end of those that have ended, and of no others.
func TestARedeliveryTellsTheEndThatWasNotTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	s, owner := w.earlier()
	done, plain, cancelled := w.holding(job{}), w.task("job.run", job{}), w.holding(job{})
	g := w.granted(s, owner, done)
	p := w.granted(s, owner, plain)
	if _, err := s.Done(t.Context(), owner, []claims.Outcome{{TaskID: done.ID, Run: g.Run, Lease: g.Lease}, {TaskID: plain.ID, Run: p.Run, Lease: p.Lease}}); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Cancel(t.Context(), cancelled.ID); err != nil || c.State != claims.Cancelled {
		t.Fatal(c, err)
	}
	w.send(cancelled)
	// A stale record of a task that goes on: acknowledged, and its key stays held.
	waits := w.holding(job{})
	waits.Attempt = 2
	g = w.granted(s, owner, waits)
	if ok, err := s.Wait(t.Context(), owner, []claims.WaitOutcome{{TaskID: waits.ID, Run: g.Run, NextAttempt: 3, Due: time.Now().Add(time.Hour)}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	stale := waits
	stale.Attempt = 1
	w.send(stale)

	l := newLedger()
	w.start("a", nil, ledgered(l))
	w.committedAll("jobs")
	if got, want := w.told("jobs"), sortedIDs(done, cancelled); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if started, _, _ := l.count(); started != 0 {
		t.Errorf("%d ran again", started)
	}
}

// Really killed, between the done mark and the record that tells it.
func TestAWorkerKilledBeforeItToldAnEndIsFollowedByOneThatDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	mend := w.eventsTakeNothing("jobs")
	l := newLedger()
	cmd := w.spawn("victim", catalogText, w.effects(l, func(string) bool { return false }))
	task := w.holding(job{})
	w.send(task)
	testkit.Eventually(t, wait, func() (bool, string) {
		c := w.claims(task.ID)[0]
		return c.State == claims.Done, fmt.Sprint(c.State)
	})
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if offsets, err := kadm.NewClient(w.cl).FetchOffsets(t.Context(), w.names.WorkerGroup("jobs")); err == nil {
		offsets.Each(func(o kadm.OffsetResponse) {
			if o.At > 0 {
				t.Fatalf("partition %d is committed up to %d, and the task's end is told nowhere", o.Partition, o.At)
			}
		})
	}
	mend()
	w.start("b", nil, ledgered(l))
	w.committedAll("jobs")
	if told := w.told("jobs"); !slices.Equal(told, []string{task.ID}) || l.runsOf(task.ID) != 1 {
		t.Errorf("told %v, ran %d times", told, l.runsOf(task.ID))
	}
}

func TestATopicOfEventsThatTakesNothingHoldsNoPartitionUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	var log lockedBuffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	w.eventsTakeNothing("jobs")
	l := newLedger()
	w.start("a", nil, ledgered(l))
	w.send(w.holding(job{}), w.task("job.run", job{}), w.holding(job{}))
	w.committedAll("jobs")
	if lines := log.lines("could not be told: the key is given back later"); len(lines) != 2 {
		t.Errorf("the log says of %d tasks that their end could not be told, want 2: %q", len(lines), lines)
	}
}

// A worker that is told to stop while it waits for Kafka leaves the record to the
// next, rather than the key to the sweep.
func TestAWorkerThatStopsLeavesAnEndToTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	mend := w.eventsTakeNothing("jobs")
	l := newLedger()
	a := w.start("a", nil, ledgered(l))
	task := w.holding(job{})
	w.send(task)
	testkit.Eventually(t, wait, func() (bool, string) {
		c := w.claims(task.ID)[0]
		return c.State == claims.Done, fmt.Sprint(c.State)
	})
	var stopped atomic.Bool
	go func() { _ = a.Stop(); stopped.Store(true) }()
	testkit.Eventually(t, wait, func() (bool, string) { return stopped.Load(), "does not stop" })
	mend()
	w.start("b", nil, ledgered(l))
	w.committedAll("jobs")
	if told := w.told("jobs"); !slices.Contains(told, task.ID) || l.runsOf(task.ID) != 1 {
		t.Errorf("told %v, ran %d times", told, l.runsOf(task.ID))
	}
}

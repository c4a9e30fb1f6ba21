package worker_test

// How partitions change hands in order: at a stop, and at a rebalance.

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker"
)

// TestAWorkerThatIsToldToStopLeavesAtOnce: scale-down. A static member does not leave
// by closing; its partitions would stand still for a session, here of 40 s.
func TestAWorkerThatIsToldToStopLeavesAtOnce(t *testing.T) {
	const session, atOnce = 40 * time.Second, 15 * time.Second
	f := newFleet(t)
	f.session = session
	stay, leave := f.hire("stay", true), f.hire("leave", true)
	stop := f.feeding(50*time.Millisecond, 30)
	stay.runs()
	leave.runs()
	mark := f.ledger.len()
	if err := leave.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-leave.died
	died := time.Now()
	if code := leave.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	if ids := f.members(); ids["leave"] != "" || ids["stay"] == "" {
		t.Errorf("members after its end: %v", ids)
	}
	// What is sent from now on begins on every partition.
	moved := f.ledger.len()
	testkit.Eventually(t, wait, func() (bool, string) {
		begun := map[int32]bool{}
		for _, n := range f.ledger.since(moved) {
			if n.What == "began" && n.PID == stay.cmd.Process.Pid {
				begun[n.Partition] = true
			}
		}
		return len(begun) == fleetPartitions, fmt.Sprintf("the other runs tasks of partitions %v", begun)
	})
	if took := time.Since(died); took > atOnce {
		t.Errorf("its partitions stood still for %v; the session takes %v", took, session)
	}
	stop()
	f.finish(wait)
	if c := check(f.sent, f.ledger.since(0)); c.reruns > 0 {
		t.Errorf("%d tasks ran again", c.reruns)
	}
	for _, n := range f.ledger.since(mark) {
		if n.What == "began" && n.PID == leave.cmd.Process.Pid && n.At.After(died) {
			t.Errorf("it began %s after its end", n.ID)
		}
	}
	log, err := os.ReadFile(filepath.Join(f.logs, "stay.log"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte("removed a silent worker")) {
		t.Error("the other had to remove it: it did not leave by itself")
	}
}

// lateAnswers is a claim store whose answers come when they are let go.
type lateAnswers struct {
	worker.Claims
	hold     atomic.Pointer[chan struct{}]   // nil = at once
	held     atomic.Pointer[[]claims.Record] // granted, and not answered yet
	handBack atomic.Int64
}

// holding lets answers wait from now on, and those before go.
func (l *lateAnswers) holding() (letGo func()) {
	gate := make(chan struct{})
	l.held.Store(nil)
	l.hold.Store(&gate)
	return func() {
		l.hold.CompareAndSwap(&gate, nil)
		close(gate)
	}
}

// partitions are those of the records whose answers are held.
func (l *lateAnswers) partitions() map[int32]bool {
	all := map[int32]bool{}
	if held := l.held.Load(); held != nil {
		for _, r := range *held {
			all[r.Coord.Partition] = true
		}
	}
	return all
}

func (l *lateAnswers) Claim(ctx context.Context, owner string, recs []claims.Record, grants []claims.Grant) ([]claims.Grant, error) {
	out, err := l.Claims.Claim(ctx, owner, recs, grants)
	if c := l.hold.Load(); c != nil {
		held := slices.Clone(recs)
		l.held.Store(&held)
		<-*c
	}
	return out, err
}

func (l *lateAnswers) HandBack(ctx context.Context, owner string, held []claims.Hold) error {
	l.handBack.Add(int64(len(held)))
	return l.Claims.HandBack(ctx, owner, held)
}

// TestARevokeHandsBackWhatWasGrantedAndNotStarted: it runs elsewhere, as the first
// attempt that it still is.
func TestARevokeHandsBackWhatWasGrantedAndNotStarted(t *testing.T) {
	w := newWorld(t, catalogText)
	var log lockedBuffer
	w.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l := newLedger()
	var again atomic.Int64
	handler := func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Attempt != 1 || task.InDoubt {
				again.Add(1)
			}
			return l.applied(task.ID, task.Run)
		})
	}
	store := &lateAnswers{Claims: w.store()}
	w.claimsOf = store
	w.start("a", func(c *worker.Config) { c.Concurrency = 200 }, handler)
	w.claimsOf = nil
	total := 0
	send := func(n int) {
		w.sendJobs(n)
		total += n
	}
	send(16)
	l.doneWithin(t, total) // it has all partitions
	// One call under way, so that the next asks about whatever has come meanwhile.
	var letGo func()
	testkit.Eventually(t, wait, func() (bool, string) {
		first := store.holding()
		send(1)
		testkit.Eventually(t, wait, func() (bool, string) { return len(store.partitions()) > 0, "nothing is granted" })
		send(64)
		time.Sleep(200 * time.Millisecond)
		letGo = store.holding()
		first()
		testkit.Eventually(t, wait, func() (bool, string) { return len(store.partitions()) > 0, "nothing is granted" })
		if len(store.partitions()) == 4 {
			return true, ""
		}
		letGo()
		l.doneWithin(t, total)
		return false, "no call is about tasks of all partitions"
	})
	w.start("b", nil, handler)
	testkit.Eventually(t, wait, func() (bool, string) {
		return len(log.lines("giving partitions back")) > 0, "nothing is revoked"
	})
	letGo()
	l.doneWithin(t, total)
	w.committedAll("jobs")
	if store.handBack.Load() == 0 {
		t.Error("nothing was handed back: this test shows nothing")
	}
	for id := range l.runs {
		if l.runsOf(id) != 1 {
			t.Errorf("%s ran %d times", id, l.runsOf(id))
		}
	}
	if n := again.Load(); n > 0 {
		t.Errorf("%d ran as a later attempt, or in doubt", n)
	}
}

// TestAtARevokeWhatRunsHasTheGracePeriod: within it the partition waits, beyond it
// goes to its next owner, who leaves what still runs to its run.
func TestAtARevokeWhatRunsHasTheGracePeriod(t *testing.T) {
	for _, c := range []struct {
		name   string
		grace  time.Duration
		beyond bool
	}{{"within", time.Minute, false}, {"beyond", 300 * time.Millisecond, true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, longTasks)
			var log lockedBuffer
			w.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			l, release := newLedger(), make(chan struct{})
			handler := l.holding(release, isLong)
			a := w.start("a", func(cfg *worker.Config) { cfg.Grace = c.grace }, handler)
			var long []string // on every partition
			for range 12 {
				task := w.task("job.run", job{Mode: "long"})
				w.send(task)
				long = append(long, task.ID)
			}
			testkit.Eventually(t, wait, func() (bool, string) {
				n, _, _ := l.count()
				return n == len(long), fmt.Sprintf("%d run", n)
			})
			b := w.start("b", nil, handler)
			testkit.Eventually(t, wait, func() (bool, string) {
				return len(log.lines("giving partitions back")) > 0, "nothing is revoked"
			})
			revoked := func() bool { return len(log.lines("partitions revoked")) > 0 }
			if c.beyond {
				testkit.Eventually(t, wait, func() (bool, string) { return revoked(), "the grace period does not end" })
				// Its next owner reads what runs, and waits with it.
				testkit.Eventually(t, wait, func() (bool, string) {
					return b.count(t, "perdure_worker_claims_total", "park") > 0, "b has met nothing that runs elsewhere"
				})
			} else if time.Sleep(time.Second); revoked() {
				t.Error("the partitions went away while their tasks ran, within the grace period")
			}
			close(release)
			l.doneWithin(t, len(long))
			w.committedAll("jobs")
			for _, id := range long {
				if n := l.runsOf(id); n != 1 {
					t.Errorf("%s ran %d times", id, n)
				}
			}
			if n := a.count(t, "perdure_worker_abandoned_total", ""); n != 0 {
				t.Errorf("%v abandoned", n)
			}
			if !c.beyond && b.count(t, "perdure_worker_claims_total", "park") > 0 {
				t.Error("b met a task that still ran")
			}
		})
	}
}

const longTasks = `
version: 1
queues:
  jobs: {partitions: 4, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 10m}
`

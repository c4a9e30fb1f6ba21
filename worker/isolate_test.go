package worker_test

// A suspect, and what else is on its worker.

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker"
)

// suspect sends a task whose workers died as often as makes it a suspect.
func (w *world) suspect() string {
	w.Helper()
	task := w.task("job.run", job{Mode: "suspect"})
	s, owner := w.earlier()
	w.granted(s, owner, task)
	rec := w.read(w.names.Tasks("jobs"))
	last := rec[len(rec)-1]
	again := claims.Record{TaskID: task.ID, Attempt: 1, Coord: claims.Coord{Topic: last.Topic, Partition: last.Partition, Offset: last.Offset}}
	for range claims.SuspectCrashes - 1 {
		next := "gone" + owner
		testkit.Eventually(w, wait, func() (bool, string) {
			if err := s.Beat(w.Context(), next); err != nil {
				return false, err.Error()
			}
			g, err := s.Claim(w.Context(), next, []claims.Record{again}, nil)
			if err != nil {
				return false, err.Error()
			}
			return g[0].Verdict == claims.VerdictRun && g[0].InDoubt, fmt.Sprintf("the one before is not called dead: %+v", g[0])
		})
		owner = next
	}
	return task.ID
}

// Nothing is alone beside a handler that was abandoned. One that never returns
// keeps suspects waiting until HeldAlarm, and then the process ends for them.
func TestASuspectOutlivesADeafHandler(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.ReplaceAll(onePartition, "2s", "100ms"))
	w.ttl = time.Second
	l, release := newLedger(), make(chan struct{})
	defer close(release)
	deaf := w.task("job.run", job{Mode: "deaf"})
	w.send(deaf)
	id := w.suspect()
	r := w.start("a", func(c *worker.Config) { c.HeldAlarm = time.Second }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Payload.Mode == "deaf" {
				<-release
			}
			return l.applied(task.ID, task.Run)
		})
	})
	r.endsToBeStartedAgain(t)
	if n := l.runsOf(id); n > 0 {
		t.Errorf("the suspect ran %d times beside a handler that still runs", n)
	}
	w.start("b", nil, ledgered(l))
	w.committedAll("jobs") // the deaf one may have died of its attempts
	if n := l.runsOf(id); n != 1 || w.claims(id)[0].State != claims.Done {
		t.Errorf("the suspect ran %d times, and its claim is %+v", n, w.claims(id)[0])
	}
}

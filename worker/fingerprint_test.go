package worker_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/worker"
)

func TestAHandlersFingerprintGroupsItsLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	// One died at a worker that was killed before its letter was written.
	s, owner := w.earlier()
	died := w.task("job.run", job{})
	g := w.granted(s, owner, died)
	history := dlq.EncodeAttempts([]dlq.Attempt{{N: 1, ErrorClass: "error", Message: "declined", Fingerprint: "card-declined"}}, 0)
	if ok, err := s.Dead(t.Context(), owner, []claims.DeadOutcome{{
		TaskID: died.ID, Attempt: 1, Run: g.Run, Reason: "permanent", Coord: g.Claim.Coord, History: history,
	}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	var outer, inner atomic.Int64
	wk := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			inner.Add(1)
			if task.Payload.N == 0 {
				return worker.Permanent(errors.New("another cause"))
			}
			return worker.Fingerprint(fmt.Errorf("bank said %c", 'a'+rune(task.Payload.N)), "card-declined")
		})
		wk.Use(func(ctx context.Context, _ *worker.Task[[]byte], next func(context.Context) error) error {
			outer.Add(1)
			return next(ctx)
		})
	})
	w.sendJobs(3)
	letters := w.lettersWithin("jobs", 4)
	if err := wk.Stop(); err != nil {
		t.Fatal(err)
	}
	groups := map[string]int{}
	for _, l := range letters {
		groups[l.Fingerprint]++
		// What a letter that has to be written again would be made from.
		for _, a := range l.Attempts {
			if named := l.Message != "another cause"; named != (a.Fingerprint == "card-declined") {
				t.Errorf("%s: attempt %d has the fingerprint %q", l.TaskID, a.N, a.Fingerprint)
			}
		}
	}
	named := dlq.NamedFingerprint("job.run", "card-declined")
	if len(letters) != 4 || groups[named] != 3 || len(groups) != 2 {
		t.Errorf("groups %v, want 3 letters under %s and one under another", groups, named)
	}
	if outer.Load() != 7 || inner.Load() != 7 {
		t.Errorf("middleware ran %d times around %d attempts, want 7 of each", outer.Load(), inner.Load())
	}
}

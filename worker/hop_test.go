package worker_test

// The hop is repeated, not the run; and what guards data when Kafka says no.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// earlier is the claim store of a worker that wrote outcomes and then died.
func (w *world) earlier() (*claims.Store, string) {
	w.Helper()
	s := w.store()
	const owner = "gone/1/1"
	if err := errors.Join(s.Open(w.Context()), s.Beat(w.Context(), owner)); err != nil {
		w.Fatal(err)
	}
	return s, owner
}

// granted sends a task and lets the earlier worker claim its record.
func (w *world) granted(s *claims.Store, owner string, t schemas.Task) claims.Grant {
	w.Helper()
	rec := &kgo.Record{
		Topic: w.names.Tasks(t.Queue), Key: []byte(t.RecordKey()), Value: t.Payload,
		Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &t),
	}
	w.sendRaw(rec)
	grants, err := s.Claim(w.Context(), owner, []claims.Record{{
		TaskID: t.ID, Attempt: t.Attempt, Epoch: t.Epoch,
		Coord: claims.Coord{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset},
	}}, nil)
	if err != nil || grants[0].Verdict != claims.VerdictRun {
		w.Fatalf("claim: %+v, %v", grants, err)
	}
	return grants[0]
}

func TestARedeliveryRepeatsTheHopAndNotTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	s, owner := w.earlier()
	history := []byte(`[{"n":1,"error_class":"HTTP 503","message":"closed for lunch"}]`)

	died := w.task("job.run", job{})
	g := w.granted(s, owner, died)
	if ok, err := s.Dead(t.Context(), owner, []claims.DeadOutcome{{
		TaskID: died.ID, Attempt: 1, Run: g.Run, Reason: "permanent", Coord: g.Claim.Coord, History: history,
	}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	retried := w.task("job.run", job{})
	g = w.granted(s, owner, retried)
	due := time.Now().Add(2 * time.Minute)
	if ok, err := s.Wait(t.Context(), owner, []claims.WaitOutcome{{
		TaskID: retried.ID, Run: g.Run, NextAttempt: 2, Due: due, History: history,
	}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	waits := w.task("job.run", job{})
	g = w.granted(s, owner, waits)
	if ok, err := s.Wait(t.Context(), owner, []claims.WaitOutcome{{
		TaskID: waits.ID, Run: g.Run, NextAttempt: 3, Due: time.Now(), Local: true, History: history,
	}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	lastRun := g.Run

	l := newLedger()
	var attempt atomic.Int64
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			attempt.Store(int64(task.Attempt))
			return l.applied(task.ID, task.Run)
		})
	})
	w.committedAll("jobs")

	letters := w.lettersWithin("jobs", 1)
	if len(letters) != 1 || letters[0].TaskID != died.ID || letters[0].Reason != schemas.ReasonPermanent ||
		letters[0].ErrorClass != "HTTP 503" || letters[0].Message != "closed for lunch" {
		t.Errorf("letters %+v", letters)
	}
	recs := w.read(w.names.Retry("30s"))
	if len(recs) != 1 {
		t.Fatalf("%d records on retry.30s", len(recs))
	}
	if got, err := schemas.DecodeRecord(recs[0].Key, recs[0].Value, recs[0].Headers); err != nil || got.ID != retried.ID || got.Attempt != 2 || got.Due.Sub(due).Abs() > time.Millisecond {
		t.Errorf("retry %+v, %v", got, err)
	}
	if l.runsOf(died.ID) != 0 || l.runsOf(retried.ID) != 0 || l.runsOf(waits.ID) != 1 {
		t.Errorf("ran %d, %d, %d times; want 0, 0, 1", l.runsOf(died.ID), l.runsOf(retried.ID), l.runsOf(waits.ID))
	}
	if attempt.Load() != 3 || l.runs[waits.ID][0] <= lastRun {
		t.Errorf("attempt %d, run %d; want 3 and a run above %d", attempt.Load(), l.runs[waits.ID][0], lastRun)
	}
}

func TestARefusedLetterIsWrittenLaterAndNothingIsCommittedBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	w.limitLetters(64)
	l := newLedger()
	a := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Payload.N == 0 {
				return worker.Permanent(errors.New("no"))
			}
			return l.applied(task.ID, task.Run)
		})
	})
	ids := w.sendJobs(20)
	w.sendRaw(&kgo.Record{Topic: w.names.Tasks("jobs"), Value: []byte("garbage has no claim that remembers it")})
	l.doneWithin(t, 19)
	// The first commit stands at the first task: what lies beyond is metadata.
	testkit.Eventually(t, wait, func() (bool, string) {
		offsets, err := kadm.NewClient(w.cl).FetchOffsets(t.Context(), w.names.WorkerGroup("jobs"))
		if err != nil {
			return false, err.Error()
		}
		c, ok := offsets.Lookup(w.names.Tasks("jobs"), 0)
		if ok && c.At > 0 {
			t.Fatalf("committed up to %d, and the first task's letter is nowhere", c.At)
		}
		return ok && c.At == 0 && c.Metadata != "", fmt.Sprintf("committed %+v", c)
	})
	testkit.Eventually(t, wait, func() (bool, string) {
		n := a.count(t, "perdure_worker_produce_errors_total", "")
		return n >= 2, fmt.Sprint(n, " letters were refused")
	})
	w.limitLetters(2097152)
	letters := w.lettersWithin("jobs", 2)
	w.committedAll("jobs")
	if letters[0].TaskID == "" {
		letters[0], letters[1] = letters[1], letters[0]
	}
	if len(letters) != 2 || letters[1].TaskID != "" || letters[0].TaskID != ids[0] || l.runsOf(ids[0]) != 1 {
		t.Errorf("%d letters, %d runs", len(letters), l.runsOf(ids[0]))
	}
}

func TestAnOffsetThatIsGoneHaltsThePartition(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	l := newLedger()
	a := w.start("a", nil, ledgered(l))
	w.sendJobs(10)
	l.doneWithin(t, 10)
	w.committedAll("jobs")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	w.sendJobs(10)
	adm := kadm.NewClient(w.cl)
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: w.names.Tasks("jobs"), Partition: 0, At: 15})
	if _, err := adm.DeleteRecords(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	b := w.start("a", nil, ledgered(l))
	testkit.Eventually(t, wait, func() (bool, string) {
		err := b.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "partition 0 is halted"), fmt.Sprintf("ready says %v", err)
	})
	if started, _, _ := l.count(); started != 10 {
		t.Errorf("%d tasks ran: the offset was reset", started)
	}
}

func TestAStoppedAndResumedProcessIsHarmless(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	var resumed atomic.Bool
	var hung atomic.Int64
	url := w.effects(l, func(string) bool { return !resumed.Load() && hung.Add(1) > 12 })
	cmd := w.spawn("victim", catalogText, url)
	ids := w.sendJobs(100)
	testkit.Eventually(t, wait, func() (bool, string) { return hung.Load() >= 20, fmt.Sprint(hung.Load(), " requests") })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.start("b", nil, ledgered(l))
	l.doneWithin(t, len(ids)) // the stopped one's session ends, its claims are in doubt and run here
	resumed.Store(true)
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	more := w.sendJobs(100)
	l.doneWithin(t, len(ids)+len(more))
	w.committedAll("jobs")
	if _, done, twice := l.count(); done != 200 || twice != 0 {
		t.Errorf("done %d, twice %d; want 200, 0", done, twice)
	}
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d letters: %+v", len(letters), letters[0])
	}
}

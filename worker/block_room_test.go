package worker_test

// on_dead: block, where a worker has little room, or is slow to read the blocks.

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// More tasks of the key stand between the ask and the end of its lift than the
// worker may hold: it must come to the end all the same, to other keys' tasks, and
// let none of the key overtake.
func TestALiftIsReachedPastMoreTasksThanAWorkerHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, blockCatalog)
	d := &desk{bad: map[string]bool{}}
	tasks, ids := w.keyed(26)
	d.set(ids[0], true)
	small := func(c *worker.Config) { c.MaxHeld = 16 }
	first := w.start("w1", small, d.handle)
	w.send(tasks[:2]...)
	w.parkedWithin(ids[0]+"@0", ids[1])
	w.committedAll("jobs")
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}

	// Discarded, asked for, and then nobody works for a while.
	line := func(lift int64, verb schemas.LineVerb, letters ...string) schemas.Line {
		return schemas.Line{Verb: verb, Lift: lift, Letters: letters}
	}
	w.send(word(tasks[0], line(7, schemas.LineAsk)))
	w.send(tasks[2:]...)
	other := w.task("job.run", job{})
	other.Key, other.Ordered = "other", true
	w.send(other)
	w.send(word(tasks[0], line(7, schemas.LineLift, ids[0]+"@0")), again(tasks[1], line(7, schemas.LineFrom)), word(tasks[0], line(7, schemas.LineEnd)))
	w.start("w2", small, d.handle)
	w.committedAll("jobs")
	if a := w.answer(7); len(a.Blocks) != 1 {
		t.Errorf("the answer is %+v", a)
	}
	w.parkedWithin(ids[0]+"@0", ids[1:]...)
	d.is(t, other.ID)

	// All of them are letters, which the next lift lets go.
	tasks[1].Epoch = 1
	w.send(word(tasks[0], line(8, schemas.LineAsk)))
	lift := []schemas.Task{word(tasks[0], line(8, schemas.LineLift, w.answer(8).Blocks...))}
	for _, task := range tasks[1:] {
		lift = append(lift, again(task, line(8, schemas.LineFrom)))
	}
	w.send(append(lift, word(tasks[0], line(8, schemas.LineEnd)))...)
	d.is(t, append([]string{other.ID}, ids[1:]...)...)
	w.committedAll("jobs")
}

// lateBlocks is a reader of perdure.control that gets no block before it is opened.
type lateBlocks struct{ opened chan struct{} }

func (l *lateBlocks) OnFetchRecordBuffered(r *kgo.Record) {
	if bytes.HasPrefix(r.Key, []byte("block/")) {
		<-l.opened
	}
}

// Who gets a partition lets nothing of a kind with on_dead: block start there before
// it has read its predecessors' blocks; other kinds go on.
func TestNothingStartsBeforeTheBlocksAreRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 2s, order: key, on_dead: block}
  job.free: {queue: jobs, timeout: 2s}
`)
	d := &desk{bad: map[string]bool{}}
	handle := func(w *worker.Worker) {
		d.handle(w)
		worker.Handle(w, "job.free", func(_ context.Context, t *worker.Task[job]) error { d.take(t.ID); return nil })
	}
	tasks, ids := w.keyed(2)
	d.set(ids[0], true)
	first := w.start("w1", nil, handle)
	w.send(tasks[0])
	w.lettersWithin("jobs", 1)
	w.committedAll("jobs")
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	late := &lateBlocks{opened: make(chan struct{})}
	w.opts = []kgo.Opt{kgo.WithHooks(late)}
	open := func() {
		select {
		case <-late.opened:
		default:
			close(late.opened)
		}
	}
	w.start("w2", nil, handle)
	t.Cleanup(open)
	free := w.task("job.free", job{})
	w.send(tasks[1], free)
	testkit.Eventually(t, wait, func() (bool, string) {
		return slices.Contains(d.all(), free.ID), "the task of another kind does not run"
	})
	if slices.Contains(d.all(), ids[1]) {
		t.Fatal("a task runs before it is known what blocks its key")
	}
	open()
	w.parkedWithin(ids[0]+"@0", ids[1])
	d.is(t, free.ID)
}

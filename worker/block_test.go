package worker_test

// on_dead: block. The test is the one who lifts; the roles together are tested in
// internal/app.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const blockCatalog = `
version: 1
queues:
  jobs: {partitions: 2, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 2s, order: key, on_dead: block, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
`

// desk takes tasks, refuses some, and keeps the order of those that it took.
type desk struct {
	mu    sync.Mutex
	bad   map[string]bool
	taken []string
}

func (l *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, _, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	if !l.take(id) {
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
}

func (l *desk) take(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad[id] {
		return false
	}
	l.taken = append(l.taken, id)
	return true
}

func (l *desk) set(id string, bad bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad[id] = bad
}

func (l *desk) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.taken)
}

func (l *desk) handle(w *worker.Worker) {
	worker.Handle(w, "job.run", func(_ context.Context, t *worker.Task[job]) error {
		if !l.take(t.ID) {
			return worker.Permanent(errors.New("refused"))
		}
		return nil
	})
}

// is waits until exactly these were taken, in this order.
func (l *desk) is(t testing.TB, want ...string) {
	t.Helper()
	testkit.Eventually(t, 2*wait, func() (bool, string) {
		got := l.all()
		return slices.Equal(got, want), fmt.Sprintf("taken %v, want %v", got, want)
	})
}

// keyed makes n tasks of key "k".
func (w *world) keyed(n int) (tasks []schemas.Task, ids []string) {
	for range n {
		t := w.task("job.run", job{})
		t.Key, t.Ordered = "k", true
		tasks, ids = append(tasks, t), append(ids, t.ID)
	}
	return tasks, ids
}

// again is a task's record at its next epoch, with a word to its line.
func again(t schemas.Task, line schemas.Line) schemas.Task {
	t.Epoch++
	if line.Verb != "" {
		t.Line = line.String()
	}
	return t
}

// word is a record that is no task.
func word(of schemas.Task, line schemas.Line) schemas.Task {
	of.Kind, of.Payload, of.Line = "perdure.line", []byte("{}"), line.String()
	return of
}

// parkedWithin waits for the letters of tasks that wait behind one.
func (w *world) parkedWithin(behind string, ids ...string) {
	w.Helper()
	testkit.Eventually(w, 2*wait, func() (bool, string) {
		left := map[string]bool{}
		for _, id := range ids {
			left[id] = true
		}
		for _, l := range w.letters("jobs") {
			if l.Reason == schemas.ReasonBlocked && l.BlockedBy == behind && !l.Block {
				delete(left, l.TaskID)
			}
		}
		return len(left) == 0, fmt.Sprintf("%v do not wait behind %s yet", left, behind)
	})
}

// answer waits for the answer to a lift.
func (w *world) answer(lift int64) (a *dlq.Answer) {
	w.Helper()
	testkit.Eventually(w, 2*wait, func() (bool, string) {
		for _, r := range w.read(w.names.DLQ("jobs")) {
			got, err := dlq.DecodeAnswer(r)
			if err != nil {
				return false, err.Error()
			}
			if got != nil && got.Lift == lift {
				a = got
			}
		}
		return a != nil, fmt.Sprintf("no answer to lift %d", lift)
	})
	return a
}

func TestABlockOutlivesItsWorkerAndRedis(t *testing.T) {
	t.Parallel()
	own := testkit.OwnRedis(t)
	w := newWorld(t, blockCatalog, withRedis(own.Addr))
	d := &desk{bad: map[string]bool{}}
	srv := httptest.NewServer(d)
	t.Cleanup(srv.Close)
	tasks, ids := w.keyed(5)
	d.set(ids[0], true)

	// The block stands, its letter cannot be written, and the worker is killed.
	w.limitLetters(200)
	victim := w.spawn("w1", blockCatalog, srv.URL)
	w.send(tasks[:2]...)
	testkit.Eventually(t, 2*wait, func() (bool, string) {
		for _, r := range w.read(w.names.Control()) {
			if string(r.Key) == "block/jobs/"+ids[0]+"@0" {
				return true, ""
			}
		}
		return false, "no block stands"
	})
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if n := len(w.letters("jobs")); n != 0 {
		t.Fatalf("%d letters were written: the worker was not between block and letter", n)
	}
	w.limitLetters(2097152)

	// Its successor lets nothing pass, nor does the successor's, which never saw it die.
	second := w.start("w2", nil, d.handle)
	w.parkedWithin(ids[0]+"@0", ids[1])
	w.committedAll("jobs")
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	w.start("w3", nil, d.handle)
	w.send(tasks[2])
	w.parkedWithin(ids[0]+"@0", ids[2])

	// Nor one whose Redis forgot everything.
	own.Flush(t)
	w.send(tasks[3])
	w.parkedWithin(ids[0]+"@0", ids[3])
	d.is(t)

	// The replay of the dead one runs; the others wait for the lift.
	d.set(ids[0], false)
	w.send(again(tasks[0], schemas.Line{}))
	d.is(t, ids[0])
	line := func(verb schemas.LineVerb, letters ...string) schemas.Line {
		return schemas.Line{Verb: verb, Lift: 7, Letters: letters}
	}
	w.send(word(tasks[0], line(schemas.LineAsk)), tasks[4])
	if a := w.answer(7); !slices.Equal(a.Blocks, []string{ids[0] + "@0"}) || a.Key != "k" {
		t.Errorf("the answer is %+v", a)
	}
	// The one behind the ask is neither run nor parked meanwhile, and the ask is
	// stood at again by whoever comes next.
	w.start("w4", nil, d.handle)
	d.is(t, ids[0])
	w.send(
		word(tasks[0], line(schemas.LineLift, ids[0]+"@0")),
		again(tasks[1], line(schemas.LineFrom)), again(tasks[2], line(schemas.LineFrom)), again(tasks[3], line(schemas.LineFrom)),
		word(tasks[0], line(schemas.LineEnd)))
	d.is(t, ids...)
	w.committedAll("jobs")
	for _, l := range w.letters("jobs") {
		if l.TaskID == ids[4] {
			t.Errorf("%s, which came behind the ask, became a letter: %s", ids[4], l.Reason)
		}
	}
}

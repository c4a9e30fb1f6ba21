package worker_test

// Effects in doubt of kinds with effects: once, and what their hook says.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

var onceText = strings.Replace(catalogText, "timeout: 2s", "timeout: 2s\n    effects: once", 1)

// hooked registers a handler that ends in doubt at each task's first run, and a
// hook.
func hooked(l *ledger, hook func(context.Context, *worker.Task[job]) (worker.Verdict, error)) func(*worker.Worker) {
	return func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			if l.began(task.ID, task.Run) == 1 {
				return worker.Unknown(errors.New("the line was cut"))
			}
			return l.applied(task.ID, task.Run)
		})
		worker.Reconcile(wk, "job.run", hook)
	}
}

// resolvedOf counts the resolved records of a queue, by task.
func (w *world) resolvedOf(queue string) map[string]int {
	w.Helper()
	n := map[string]int{}
	for _, r := range w.read(w.names.DLQ(queue)) {
		if headerOf(r, schemas.HeaderRecord) == "resolved" {
			n[headerOf(r, schemas.HeaderID)]++
		}
	}
	return n
}

// retried returns the tasks on every delay topic.
func (w *world) retried() (tasks []schemas.Task) {
	w.Helper()
	for _, tier := range []string{"5s", "30s", "2m", "10m", "1h"} {
		for _, r := range w.read(w.names.Retry(tier)) {
			t, err := schemas.DecodeRecord(r.Key, r.Value, r.Headers)
			if err != nil {
				w.Fatal(err)
			}
			tasks = append(tasks, t)
		}
	}
	return tasks
}

func TestAHookDecidesWhatBecomesOfAnEffectInDoubt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onceText)
	l := newLedger()
	var asked sync.Map // id → *atomic.Int64
	const (
		happened = iota
		didNot
		cannotTell
		fails
		panics
		odd
		recovers
		exhausted
	)
	w.start("a", nil, hooked(l, func(ctx context.Context, task *worker.Task[job]) (worker.Verdict, error) {
		n, _ := asked.LoadOrStore(task.ID, new(atomic.Int64))
		times := n.(*atomic.Int64).Add(1)
		if _, bounded := ctx.Deadline(); !bounded || !task.InDoubt || task.Run == 0 || task.Kind != "job.run" {
			return worker.CannotTell, nil
		}
		switch task.Payload.N {
		case happened:
			return worker.Happened, nil
		case didNot, exhausted:
			return worker.DidNotHappen, nil
		case fails:
			return worker.Happened, errors.New("ledger is down")
		case panics:
			panic("hook")
		case odd:
			return 99, nil
		case recovers:
			if times < 3 {
				return worker.CannotTell, errors.New("ledger is down")
			}
			return worker.Happened, nil
		}
		return worker.CannotTell, nil
	}))
	ids := w.sendJobs(exhausted)
	last := w.task("job.run", job{N: exhausted})
	last.Attempt = 3
	w.send(last)
	ids = append(ids, last.ID)
	w.committedAll("jobs")

	const unknown = schemas.ReasonUnknown
	for id, want := range map[string]struct {
		reason schemas.Reason
		says   string
	}{
		ids[cannotTell]: {unknown, "the line was cut; the reconcile hook cannot tell"}, ids[fails]: {unknown, "gave no answer: ledger is down"},
		ids[panics]: {unknown, "gave no answer: panic: hook"}, ids[odd]: {unknown, "99 does not exist"},
		ids[exhausted]: {schemas.ReasonExhausted, "the line was cut"},
	} {
		found := 0
		for _, letter := range w.letters("jobs") {
			if letter.TaskID == id {
				found++
				if letter.Reason != want.reason || !strings.Contains(letter.Message, want.says) {
					t.Errorf("%s: %s %q, want %s %q", id, letter.Reason, letter.Message, want.reason, want.says)
				}
			}
		}
		if found != 1 {
			t.Errorf("%s has %d letters, want 1", id, found)
		}
	}
	if n := len(w.letters("jobs")); n != 5 {
		t.Errorf("%d letters, want 5", n)
	}
	for i, want := range map[int]int64{happened: 1, didNot: 1, cannotTell: 1, fails: 3, panics: 3, odd: 3, recovers: 3, exhausted: 1} {
		n, ok := asked.Load(ids[i])
		if !ok || n.(*atomic.Int64).Load() != want {
			t.Errorf("job %d: the hook was asked %v times, want %d", i, n, want)
		}
		if runs := l.runsOf(ids[i]); runs != 1 {
			t.Errorf("job %d ran %d times, want 1", i, runs)
		}
	}
	states := w.claims(ids...)
	resolved := w.resolvedOf("jobs")
	for i, done := range map[int]bool{happened: true, recovers: true, didNot: false, cannotTell: false} {
		if (states[i].State == claims.Done) != done || (resolved[ids[i]] == 1) != done {
			t.Errorf("job %d: claim %+v, %d resolved records; want done and resolved: %v", i, states[i], resolved[ids[i]], done)
		}
	}

	// What did not happen goes on as a replay does, and only once.
	again := w.retried()
	if len(again) != 1 || again[0].ID != ids[didNot] || again[0].Epoch != 1 || again[0].Attempt != 2 || again[0].Run != l.runs[ids[didNot]][0] {
		t.Fatalf("on the delay topics %+v", again)
	}
	again[0].Queue = "jobs"
	w.send(again[0], again[0]) // as the relay would, and once more
	l.doneWithin(t, 1)
	w.committedAll("jobs")
	if runs := l.runs[ids[didNot]]; len(runs) != 2 || runs[1] <= runs[0] || l.done[ids[didNot]] != 1 {
		t.Errorf("ran as %v, done %d times", runs, l.done[ids[didNot]])
	}
	if n := w.resolvedOf("jobs")[ids[didNot]]; n == 0 {
		t.Error("a task that was replayed and completed is not resolved")
	}
}

func TestAWorkerThatDiesWhileItReconcilesLosesNothing(t *testing.T) {
	t.Parallel()
	var killed atomic.Int64
	var mu sync.Mutex // of what follows
	var cmds [4]*exec.Cmd
	var answer string
	l := newLedger()
	// The first question of each task gets the asking process killed; the second
	// too; then there is an answer.
	hook := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // so that the server watches the connection
		mu.Lock()
		defer mu.Unlock()
		if n := killed.Add(1); n <= 2 {
			_ = cmds[n].Process.Signal(syscall.SIGKILL)
			<-r.Context().Done()
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"verdict":%q}`, answer)
	}))
	defer hook.Close()
	catalog := strings.Replace(onceText, "effects: once", "effects: once\n    reconcile: {http: {url: "+hook.URL+"}}", 1)
	for _, verdict := range []string{"happened", "did_not_happen", "cannot_tell"} {
		t.Run(verdict, func(t *testing.T) {
			w := newWorld(t, catalog)
			w.ttl = 1000e6
			killed.Store(0)
			task := w.task("job.run", job{Mode: "kill"})
			mu.Lock()
			answer = verdict
			mu.Unlock()
			url := w.effects(l, func(string) bool { return false })
			before := l.runsOf(task.ID)
			for i := range cmds { // the last one has the task's word
				mu.Lock()
				cmds[i] = w.spawn("v", catalog, url) // a restart under its name
				mu.Unlock()
				if i == 0 {
					w.send(task)
				}
				if i < len(cmds)-1 {
					_ = cmds[i].Wait() // its handler ends it, then its questions
				}
			}
			w.committedAll("jobs")
			if n := l.runsOf(task.ID) - before; n != 1 {
				t.Errorf("ran %d times, want once", n)
			}
			if n := killed.Load(); n != 3 {
				t.Errorf("asked %d times, want 3", n)
			}
			letters, again, done := len(w.letters("jobs")), len(w.retried()), w.claims(task.ID)[0].State == claims.Done
			if letters != b2i(verdict == "cannot_tell") || again != b2i(verdict == "did_not_happen") || done != (verdict == "happened") {
				t.Errorf("%d letters, %d retries, done %v", letters, again, done)
			}
			if n := w.resolvedOf("jobs")[task.ID]; n != b2i(verdict == "happened") {
				t.Errorf("%d resolved records", n)
			}
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestAStopLeavesAQuestionToTheNextWorker(t *testing.T) {
	t.Parallel()
	// One question a task: one that a stop cut off must not count.
	w := newWorld(t, strings.Replace(onceText, "max_attempts: 3", "max_attempts: 1", 1))
	l := newLedger()
	asking := make(chan struct{})
	a := w.start("a", func(c *worker.Config) { c.Grace = 1e6 }, hooked(l, func(ctx context.Context, _ *worker.Task[job]) (worker.Verdict, error) {
		close(asking)
		<-ctx.Done()
		return worker.Happened, ctx.Err()
	}))
	ids := w.sendJobs(1)
	<-asking
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if n, state := len(w.letters("jobs")), w.claims(ids...)[0]; n != 0 || state.State != claims.Dead || state.Reason != "unknown" {
		t.Errorf("%d letters, claim %+v; want none, and dead with reason unknown", n, state)
	}
	var asked atomic.Int64
	w.start("b", nil, hooked(l, func(context.Context, *worker.Task[job]) (worker.Verdict, error) {
		asked.Add(1)
		return worker.Happened, nil
	}))
	w.committedAll("jobs")
	if state := w.claims(ids...)[0]; state.State != claims.Done || asked.Load() != 1 || l.runsOf(ids[0]) != 1 {
		t.Errorf("claim %+v, asked %d, ran %d", state, asked.Load(), l.runsOf(ids[0]))
	}
}

func TestNobodyIsAskedAboutAHandlerThatMayStillRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(onceText, "timeout: 2s", "timeout: 100ms", 1))
	end := make(chan struct{})
	defer close(end)
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error {
			<-end
			return nil
		})
		worker.Reconcile(wk, "job.run", func(context.Context, *worker.Task[job]) (worker.Verdict, error) {
			t.Error("asked")
			return worker.DidNotHappen, nil
		})
	})
	w.sendJobs(1)
	if l := w.lettersWithin("jobs", 1); l[0].Reason != schemas.ReasonUnknown || l[0].ErrorClass != "abandoned" {
		t.Errorf("letter %+v", l[0])
	}
}

func TestAHookThatCannotBeRegisteredIsAMistake(t *testing.T) {
	t.Parallel()
	never := func(context.Context, *worker.Task[job]) (worker.Verdict, error) { return worker.CannotTell, nil }
	url := strings.Replace(onceText, "effects: once", "effects: once\n    reconcile: {http: {url: \"http://127.0.0.1:1/\", secret_env: NOT_SET_ANYWHERE}}", 1)
	for want, c := range map[string]struct {
		catalog string
		kind    string
		times   int
	}{
		"the catalog has no such kind":  {onceText, "job.none", 1},
		"only kinds with effects: once": {catalogText, "job.run", 1},
		"registered twice":              {onceText, "job.run", 2},
		"a reconcile URL":               {url, "job.run", 1},
		"NOT_SET_ANYWHERE: is not set":  {url, "job.run", 0},
	} {
		w := newWorld(t, c.catalog)
		wk, _ := w.make("a", nil, func(wk *worker.Worker) {
			worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error { return nil })
			for range c.times {
				worker.Reconcile(wk, c.kind, never)
			}
		})
		if err := wk.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

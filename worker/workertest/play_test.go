package workertest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
	"github.com/perdure/perdure/worker/workertest"
)

// play runs a play in virtual time.
func play(t *testing.T, handler func(context.Context, *worker.Task[email]) error, options ...workertest.Option) (s *workertest.Story) {
	synctest.Test(t, func(t *testing.T) { s = workertest.Play(t, handler, email{To: "a"}, options...) })
	return s
}

func waits(s *workertest.Story) (ds []time.Duration) {
	for _, st := range s.Starts {
		ds = append(ds, st.Waited)
	}
	return ds
}

func TestPlayWaitsAsThePolicySays(t *testing.T) {
	var times []time.Time
	policy := []workertest.Option{workertest.Attempts(5), workertest.Backoff(time.Second, 3*time.Second)}
	s := play(t, func(_ context.Context, task *worker.Task[email]) error {
		times = append(times, time.Now())
		if task.Attempt == 4 {
			return worker.RetryAfter(time.Hour, errors.New("closed"))
		}
		if task.Attempt == 5 && task.Run == 5 {
			return nil
		}
		return errors.New("no luck")
	}, policy...)
	want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, time.Hour, 0}
	if s.Result != schemas.OutcomeCompleted || !slices.Equal(waits(s), want) {
		t.Fatalf("%v, want waits %v", s, want)
	}
	for i := range 4 {
		if got := times[i+1].Sub(times[i]); got != want[i] {
			t.Errorf("start %d came %v after the one before, want %v", i+2, got, want[i])
		}
	}
	s = play(t, func(context.Context, *worker.Task[email]) error { return errors.New("no luck") }, append(policy, workertest.Jitter(0.5))...)
	if s.Reason != schemas.ReasonExhausted || len(s.Starts) != 5 || s.Starts[1].Waited != time.Second {
		t.Errorf("%v, want five attempts with half of the delays", s)
	}
}

func TestPlayEndsAtTheDeadline(t *testing.T) {
	kind := &schemas.Kind{
		Name: "k", Queue: "q", Timeout: 10 * time.Second, ExpiresAfter: 25 * time.Second, Effects: schemas.EffectsIdempotent,
		Retry: schemas.Retry{MaxAttempts: 100, InitialDelay: time.Second, MaxDelay: time.Second},
	}
	var bounds []time.Duration
	s := play(t, func(ctx context.Context, _ *worker.Task[email]) error {
		end, _ := ctx.Deadline()
		bounds = append(bounds, time.Until(end))
		<-ctx.Done()
		return ctx.Err()
	}, workertest.Kind(kind))
	// 10 + 1 + 10 + 1 s, then what is left to the deadline.
	if want := []time.Duration{10 * time.Second, 10 * time.Second, 3 * time.Second}; s.Reason != schemas.ReasonExpired || !slices.Equal(bounds, want) {
		t.Errorf("%v with bounds %v, want expired after %v", s, bounds, want)
	}
}

func TestPlayStartsNothingThatWaitedTooLong(t *testing.T) {
	kind := &schemas.Kind{
		Name: "k", Queue: "q", Timeout: 10 * time.Second, StartWithin: 30 * time.Second, Effects: schemas.EffectsIdempotent,
		Retry: schemas.Retry{MaxAttempts: 3, InitialDelay: time.Minute, MaxDelay: time.Minute},
	}
	once := func(_ context.Context, task *worker.Task[email]) error {
		if task.Attempt == 1 && !task.InDoubt {
			return errors.New("no luck")
		}
		return nil
	}
	for name, c := range map[string]struct {
		options []workertest.Option
		starts  int // 0 = expired, else completed with so many
	}{
		"in time, and retried past it":     {[]workertest.Option{workertest.Queued(30 * time.Second)}, 2},
		"too late":                         {[]workertest.Option{workertest.Queued(31 * time.Second)}, 0},
		"too late for a limit of the test": {[]workertest.Option{workertest.Queued(2 * time.Second), workertest.StartWithin(time.Second)}, 0},
		"without a limit":                  {[]workertest.Option{workertest.Queued(time.Hour), workertest.StartWithin(0)}, 2},
		"it began, and failed":             {[]workertest.Option{workertest.Queued(time.Hour), workertest.Attempt(2)}, 1},
		"it began, and its worker died":    {[]workertest.Option{workertest.Queued(time.Hour), workertest.InDoubt()}, 1},
		"it was started before":            {[]workertest.Option{workertest.Queued(time.Hour), workertest.Fence(2)}, 2},
		"its first worker dies":            {[]workertest.Option{workertest.Queued(time.Second), workertest.Crash(1)}, 2},
	} {
		s := play(t, once, append([]workertest.Option{workertest.Kind(kind)}, c.options...)...)
		ok := s.Result == schemas.OutcomeCompleted
		if c.starts == 0 {
			ok = s.Reason == schemas.ReasonExpired
		}
		if !ok || len(s.Starts) != c.starts {
			t.Errorf("%s: %v, want %d starts", name, s, c.starts)
		}
	}
}

func TestPlayLetsWorkersDie(t *testing.T) {
	always := func(context.Context, *worker.Task[email]) error { return nil }
	var effects, doubts int
	var runs []int64
	s := play(t, func(_ context.Context, task *worker.Task[email]) error {
		runs = append(runs, task.Run)
		if task.InDoubt {
			doubts++
			return nil // it looked, and found the effect
		}
		effects++
		return nil
	}, workertest.Crash(1))
	if s.Result != schemas.OutcomeCompleted || len(s.Starts) != 2 || effects != 1 || doubts != 1 || !slices.Equal(runs, []int64{1, 2}) || s.Starts[1].Attempt != 1 {
		t.Errorf("%v: %d effects, %d doubts, runs %v", s, effects, doubts, runs)
	}
	if s = play(t, always, workertest.Crash(1), workertest.Once()); s.Reason != schemas.ReasonUnknown || len(s.Starts) != 1 {
		t.Errorf("effects once: %v, want unknown after one start", s)
	}
	if s = play(t, always, workertest.Crash(1, 2, 3, 4, 5)); s.Reason != schemas.ReasonPoison || len(s.Starts) != 5 {
		t.Errorf("%v, want poison after five", s)
	}
	if got, want := s.String(), "1:crash → 1:crash → 1:crash → 1:crash → 1:crash → dead poison"; got != want {
		t.Errorf("told as %q, want %q", got, want)
	}
}

const programCatalog = `
version: 1
queues: {mail: {}, other: {}}
kinds:
  email.send: {queue: mail, schema: email.json, retry: {max_attempts: 2, initial_delay: 1m}}
  email.bounce: {queue: mail}
  elsewhere: {queue: other}
  posted: {queue: mail, executor: {http: {url: "http://127.0.0.1:1/", secret_env: NOT_SET}}}
`

// catalogFile writes programCatalog and its schema.
func catalogFile(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{"catalog.yaml": programCatalog, "email.json": `{"required": ["to"]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "catalog.yaml")
}

func TestAProgramsSetupIsRehearsed(t *testing.T) {
	file := catalogFile(t)
	p := workertest.New(t, file, func(w *worker.Worker) error {
		worker.Handle(w, "email.send", handler(errors.New("no luck")))
		worker.Handle(w, "email.bounce", handler(nil))
		w.Use(func(ctx context.Context, task *worker.Task[[]byte], next func(context.Context) error) error {
			return worker.Fingerprint(next(ctx), task.Kind)
		})
		return nil
	})
	synctest.Test(t, func(t *testing.T) {
		s := p.Play(t, "email.send", email{To: "a"})
		if s.Reason != schemas.ReasonExhausted || len(s.Starts) != 2 || s.Starts[0].Waited != time.Minute || s.Last.Fingerprint != "email.send" {
			t.Errorf("%v, last %+v", s, s.Last)
		}
	})
	if o := p.Run(t, "email.bounce", email{}); o.Result != schemas.OutcomeCompleted {
		t.Errorf("%+v", o)
	}
}

// tb notes what a test is told.
type tb struct {
	testing.TB
	told []string
}

func (t *tb) Errorf(format string, args ...any) { t.told = append(t.told, format) }
func (t *tb) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			t.told = append(t.told, err.Error())
		}
	}
	panic(t)
}

func TestMistakesFailTheTest(t *testing.T) {
	file := catalogFile(t)
	caught := func(f func(testing.TB)) string {
		to := &tb{TB: t}
		func() {
			defer func() {
				if p := recover(); p != nil && p != any(to) {
					panic(p)
				}
			}()
			f(to)
		}()
		return strings.Join(to.told, "; ")
	}
	for want, setup := range map[string]func(*worker.Worker) error{
		"no handler and no executor for email.bounce (queue mail)": func(w *worker.Worker) error {
			worker.Handle(w, "email.send", handler(nil))
			return nil
		},
		"the catalog has no such kind": func(w *worker.Worker) error {
			worker.Handle(w, "email.sent", handler(nil))
			return nil
		},
		"no password": func(*worker.Worker) error { return errors.New("no password") },
	} {
		if told := caught(func(t testing.TB) { workertest.New(t, file, setup) }); !strings.Contains(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	}
	cat, err := schemas.LoadCatalog(file)
	if err != nil {
		t.Fatal(err)
	}
	told := caught(func(t testing.TB) {
		anything := func(context.Context, *worker.Task[struct{}]) error { return nil }
		workertest.Run(t, anything, struct{}{}, workertest.Kind(cat.Kind("email.send")))
	})
	if !strings.Contains(told, "refuses the payload") {
		t.Errorf("a payload that the schema refuses: told %q", told)
	}
}

func TestPlayAsksTheHook(t *testing.T) {
	type verdicts = []worker.Verdict
	down := errors.New("ledger is down")
	for name, c := range map[string]struct {
		verdicts verdicts // then an error
		crash    bool
		want     string
		asked    int
	}{
		"happened":      {verdicts{worker.Happened}, true, "1:crash → completed", 1},
		"cannot tell":   {verdicts{worker.CannotTell}, false, "1:unknown → unknown unknown", 1},
		"no answer":     {nil, true, "1:crash → unknown unknown", 3},
		"did not":       {verdicts{worker.DidNotHappen}, true, "1:crash (1s) → 2:completed → completed", 1},
		"did not, ever": {verdicts{worker.DidNotHappen, worker.DidNotHappen, worker.DidNotHappen}, false, "1:unknown (1s) → 2:unknown (2s) → 3:unknown → dead exhausted", 3},
	} {
		asked := 0
		hook := func(_ context.Context, task *worker.Task[email]) (worker.Verdict, error) {
			asked++
			if !task.InDoubt && !c.crash || task.Payload.To != "a" {
				return worker.CannotTell, nil
			}
			if asked > len(c.verdicts) {
				return worker.CannotTell, down
			}
			return c.verdicts[asked-1], nil
		}
		options := []workertest.Option{workertest.Once(), workertest.Attempts(3), workertest.Reconcile(hook)}
		var err error
		if c.crash {
			options = append(options, workertest.Crash(1))
		} else {
			err = worker.Unknown(errors.New("cut off"))
		}
		s := play(t, handler(err), options...)
		if s.String() != c.want || asked != c.asked {
			t.Errorf("%s: %v, asked %d times; want %s, %d", name, s, asked, c.want, c.asked)
		}
		if len(s.Starts) == 2 && s.Starts[1].Run <= s.Starts[0].Run {
			t.Errorf("%s: runs %d, %d", name, s.Starts[0].Run, s.Starts[1].Run)
		}
	}
	p := workertest.New(t, onceFile(t), func(w *worker.Worker) error {
		worker.Handle(w, "k", handler(worker.Unknown(down)))
		worker.Reconcile(w, "k", func(context.Context, *worker.Task[email]) (worker.Verdict, error) { return worker.Happened, nil })
		return nil
	})
	if s := p.Play(t, "k", email{To: "a"}); s.Result != schemas.OutcomeCompleted {
		t.Errorf("a program's own hook: %v", s)
	}
}

func onceFile(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nqueues: {q: {}}\nkinds: {k: {queue: q, effects: once}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

package run

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perdure/perdure/dispatcher/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a system without servers: a task begins as soon as it is accepted,
// unless the test says otherwise.
type fake struct {
	tally  *Tally
	before func(task int) error // in Enqueue, with the number of a batch's first task
	drop   map[int]bool         // tasks that never begin
	twice  map[int]bool
	failed chan error
	kafka  *Baseline

	mu   sync.Mutex
	done int
}

func (f *fake) Enqueue(_ context.Context, tasks []client.Task) error {
	for i, t := range tasks {
		payload := []byte(t.Payload.(client.Raw))
		n, err := number(payload)
		if err != nil {
			return err
		}
		if i == 0 && f.before != nil {
			if err := f.before(n); err != nil {
				return err
			}
		}
		times := 1
		switch {
		case f.drop[n]:
			times = 0
		case f.twice[n]:
			times = 2
		}
		for range times {
			if err := f.tally.Begin(payload); err != nil {
				return err
			}
		}
		f.mu.Lock()
		f.done += min(times, 1)
		f.mu.Unlock()
	}
	return nil
}

func (f *fake) Done(context.Context) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done, nil
}

func (f *fake) Lag(context.Context) (int64, error) { return 0, nil }
func (f *fake) Kafka() *Baseline                   { return f.kafka }
func (f *fake) Servers() []Server                  { return nil }
func (f *fake) Failed() <-chan error               { return f.failed }

// load runs o on a fake that change has changed.
func load(t *testing.T, o Options, change func(*fake)) (*Report, error) {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{tally: l.Tally, failed: make(chan error, 1)}
	if change != nil {
		change(f)
	}
	return l.Run(t.Context(), f)
}

func small() Options {
	o := Defaults()
	o.Tasks, o.Warmup, o.Batch, o.Payload = 500, 50, 20, 128
	return o
}

func TestEveryTaskIsCountedOnce(t *testing.T) {
	for _, inFlight := range []int{0, 1, 7, 1000} {
		o := small()
		o.InFlight = inFlight
		rep, err := load(t, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := rep.Err(); err != nil || rep.FromDue.Count != 500 || rep.FromCommit.Count != 500 {
			t.Errorf("%d in flight: %v, %d latencies", inFlight, err, rep.FromDue.Count)
		}
	}
}

func TestFaultsAreFound(t *testing.T) {
	rep, err := load(t, small(), func(f *fake) { f.twice = map[int]bool{77: true} })
	if err != nil {
		t.Fatal(err)
	}
	if rep.Repeats != 1 || rep.Err() == nil {
		t.Errorf("a task that ran twice: %d repeats, %v", rep.Repeats, rep.Err())
	}

	o := small()
	o.Patience = 50 * time.Millisecond
	_, err = load(t, o, func(f *fake) { f.drop = map[int]bool{60: true, 61: true} })
	if err == nil || !strings.Contains(err.Error(), "of 550 accepted tasks 548 are begun") {
		t.Errorf("two tasks that never begin: %v", err)
	}

	_, err = load(t, small(), func(f *fake) {
		f.before = func(n int) error {
			if n >= 300 {
				return errors.New("the database is away")
			}
			return nil
		}
	})
	if err == nil || !strings.Contains(err.Error(), "the database is away") || !strings.Contains(err.Error(), "enqueue tasks") {
		t.Errorf("a producer that fails: %v", err)
	}

	_, err = load(t, small(), func(f *fake) {
		f.drop = map[int]bool{60: true}
		f.failed <- errors.New("the relay ended")
	})
	if err == nil || !strings.Contains(err.Error(), "the relay ended") {
		t.Errorf("a part that ends: %v", err)
	}

	l, err := New(small())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Tally.Begin([]byte("not ours")); err == nil || l.Tally.foreign.Load() != 1 {
		t.Errorf("a payload from elsewhere: %v", err)
	}
}

// TestStallIsNotLeftOut: while the database does not answer for half a second
// nothing is sent, and the tasks that were due meanwhile count from then. A
// generator that counted from when it could send would show one slow batch.
func TestStallIsNotLeftOut(t *testing.T) {
	const stall = 500 * time.Millisecond
	o := small()
	o.Loop, o.Rate, o.Duration, o.Producers, o.Batch = Open, 500, 2*time.Second, 1, 10
	var once sync.Once
	rep, err := load(t, o, func(f *fake) {
		f.before = func(n int) error {
			if n > o.Warmup+200 {
				once.Do(func() { <-time.After(stall) })
			}
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// 250 of 1,000 tasks were due in the stall; they waited 250 ms on average.
	if rep.FromDue.Max < 450 || rep.FromDue.P90 < 150 {
		t.Errorf("from due: p90 %.0f ms, max %.0f ms: the stall of %s was left out", rep.FromDue.P90, rep.FromDue.Max, stall)
	}
	if rep.FromCommit.P90 > 100 {
		t.Errorf("from commit: p90 %.0f ms, though tasks began at once", rep.FromCommit.P90)
	}
	if rep.Options.Tasks != 1000 || rep.Err() != nil {
		t.Errorf("%d tasks, %v", rep.Options.Tasks, rep.Err())
	}
}

// A producer that gathers sends nothing sooner than its first task has been due for so
// long, and counts that from when each was due.
func TestAProducerGathers(t *testing.T) {
	o := small()
	o.Loop, o.Rate, o.Duration, o.Producers, o.Batch, o.Linger = Open, 500, time.Second, 1, 1000, 100*time.Millisecond
	sent := 0
	rep, err := load(t, o, func(f *fake) {
		f.before = func(n int) error {
			if n >= o.Warmup {
				sent++
			}
			return nil
		}
	})
	if err != nil || rep.Err() != nil {
		t.Fatal(err, rep)
	}
	if sent < 1 || sent > 11 {
		t.Errorf("500 tasks in a second went in %d transactions, want one in 100 ms at most", sent)
	}
	if rep.FromDue.Max < 95 || rep.FromCommit.P90 > 90 {
		t.Errorf("at most %.0f ms from due, p90 %.0f ms from commit: the gathering is of the first alone", rep.FromDue.Max, rep.FromCommit.P90)
	}
}

func TestProgressIsShown(t *testing.T) {
	var b strings.Builder
	var mu sync.Mutex
	show, done := Line(&b)
	o := small()
	o.Loop, o.Rate, o.Duration = Open, 100, time.Second
	o.Progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		show(p)
	}
	if _, err := load(t, o, nil); err != nil {
		t.Fatal(err)
	}
	done()
	if !strings.Contains(b.String(), "load: accepted") || !strings.HasSuffix(b.String(), "\r\x1b[2K") {
		t.Errorf("shown: %q", b.String())
	}
}

func TestAStopIsObeyed(t *testing.T) {
	l, err := New(small())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{tally: l.Tally, drop: map[int]bool{60: true}, failed: make(chan error)}
	f.before = func(n int) error {
		if n > 200 {
			cancel()
		}
		return nil
	}
	if _, err := l.Run(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

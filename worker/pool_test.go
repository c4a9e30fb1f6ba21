package worker

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// poolRig is a pool of a worker that has nothing else.
type poolRig struct {
	*pool
	kind  kind
	woken chan struct{} // something has ended
}

// newPoolRig: do is each attempt, and is told its number.
func newPoolRig(concurrency int, do func(n int)) *poolRig {
	w := &Worker{cfg: Config{Concurrency: concurrency}}
	w.p = &pipeline{Worker: w}
	woken := make(chan struct{}, 1)
	w.p.finished.wake = woken
	return &poolRig{newPool(context.Background(), w), kind{Kind: &schemas.Kind{Name: "k"}, exec: doing(do)}, woken}
}

type doing func(n int)

func (do doing) Execute(_ context.Context, a *execution.Attempt) execution.Result {
	do(a.N)
	return execution.Result{Outcome: execution.Completed}
}

func (r *poolRig) attempt(n int) *tryOut {
	return &tryOut{d: &delivery{kind: &r.kind}, attempt: execution.Attempt{N: n}}
}

// ended waits until attempts have ended, and says how many.
func (r *poolRig) ended(t *testing.T) int {
	t.Helper()
	inTime(t, r.woken, "no attempt ends")
	return len(r.w.p.finished.take())
}

// inTime receives, or fails the test.
func inTime[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(time.Minute):
		t.Fatal(what)
	}
	return v
}

// end closes the pool and waits for its goroutines.
func (r *poolRig) end(t *testing.T) {
	t.Helper()
	r.close()
	ended := make(chan struct{})
	go func() { r.w.executors.Wait(); close(ended) }()
	inTime(t, ended, "goroutines of the pool do not end")
}

// As many as there are slots begin, though none of them ever ends.
func TestNoAttemptWaitsBehindOneThatRuns(t *testing.T) {
	t.Parallel()
	const slots = 300
	var began atomic.Int64
	hold := make(chan struct{})
	r := newPoolRig(slots, func(int) { began.Add(1); <-hold })
	for range 3 { // with goroutines that are made, then with those that slept
		for n := range slots {
			r.run(r.attempt(n))
		}
		testkit.Eventually(t, time.Minute, func() (bool, string) { return began.Load() == slots, "not all have begun" })
		for range slots {
			hold <- struct{}{}
		}
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			return len(r.w.p.finished.take()) == 0 && r.asleep() == slots, "not all have ended"
		})
		began.Store(0)
	}
	r.end(t)
}

func (p *pool) room() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cap(p.queue)
}

func (p *pool) asleep() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// A goroutine that is lost to an abandoned attempt is made up for, also for what is queued already.
func TestALostGoroutineIsMadeUpFor(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	ran := make(chan int, 2)
	r := newPoolRig(1, func(n int) {
		if n == 0 {
			<-hold
		}
		ran <- n
	})
	lost := r.attempt(0)
	r.run(lost)
	testkit.Eventually(t, time.Minute, func() (bool, string) { return lost.end.Load() != nil, "it has not begun" })
	r.run(r.attempt(1)) // one more than there are slots: the worker has given up the first
	lost.state.Store(tryAbandoned)
	r.replace()
	r.w.executors.Done()
	if n := inTime(t, ran, "what is queued does not run"); n != 1 {
		t.Fatalf("ran %d", n)
	}
	close(hold)
	inTime(t, ran, "the lost one does not end")
	r.end(t)
}

// What no goroutine has begun at a stop is given up without one: nobody begins it after it,
// and nobody is waited for.
func TestAStopGivesUpWhatIsQueued(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	r := newPoolRig(3, func(n int) {
		if n > 0 {
			t.Errorf("%d was begun", n)
		}
		<-hold
	})
	r.w.log, r.w.p.pool = testkit.Logger(t), r.pool
	for n := range 3 {
		a := r.attempt(n)
		a.d.try = a
		r.w.p.claimed.add(a.d)
		if n == 0 {
			r.run(a)
			testkit.Eventually(t, time.Minute, func() (bool, string) { return a.end.Load() != nil, "it has not begun" })
			continue
		}
		if a.ignores(time.Now(), 0) || a.ignores(time.Now().Add(time.Hour), 0) {
			t.Error("what has not begun ignores its context")
		}
		r.mu.Lock() // on their way to it are goroutines that get no time
		r.queue = append(r.queue, a)
		r.mu.Unlock()
	}
	r.w.giveUpRunning()
	r.end(t)
	close(hold)
}

// Attempts of any length, as slots come free: each runs once, they begin in order where
// there is one slot, and the queue does not grow.
func TestEachAttemptRunsOnce(t *testing.T) {
	t.Parallel()
	for _, slots := range []int{1, 2, 7, 64} {
		const attempts = 5000
		var mu sync.Mutex
		var order []int
		r := newPoolRig(slots, func(n int) {
			mu.Lock()
			order = append(order, n)
			mu.Unlock()
			switch rand.N(20) {
			case 0:
				time.Sleep(rand.N(200 * time.Microsecond))
			case 1:
				runtime.Gosched()
			}
		})
		free := slots
		for n := range attempts {
			for free == 0 {
				free += r.ended(t)
			}
			free--
			r.run(r.attempt(n))
			if room := r.room(); room > 8*slots+8 {
				t.Fatalf("%d slots: the queue has room for %d", slots, room)
			}
		}
		for free < slots {
			free += r.ended(t)
		}
		r.end(t)
		if slots > 1 {
			slices.Sort(order)
		}
		for n, got := range order {
			if n != got {
				t.Fatalf("%d slots: the attempt at place %d is %d", slots, n, got)
			}
		}
		if len(order) != attempts {
			t.Fatalf("%d slots: %d ran", slots, len(order))
		}
	}
}

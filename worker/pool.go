package worker

// The goroutines that run attempts.

import (
	"context"
	"runtime"
	"sync"
)

// pool runs attempts on at most Concurrency goroutines, made when first needed, in the
// order in which they are given to it.
//
// No attempt waits for one that runs to end: whoever takes one while others are queued has
// another goroutine woken before it begins. But no more are on their way at a time than can
// run at once, and the next is woken when one of them takes its first. So short attempts are
// taken one after the other by the few goroutines that are awake, where a wake-up for each
// would cost more than they do, and long ones all begin at once. Go's own scheduler wakes its
// threads like that.
type pool struct {
	w   *Worker
	ctx context.Context // of the work; outlives the fetch's

	mu      sync.Mutex
	queue   []*tryOut // those from head on; no more than slots
	head    int
	idle    []chan struct{} // of goroutines that sleep; the last went to sleep last, its stack is warm
	waking  int             // that were woken or made, and have not looked at the queue yet
	spawned int
	closed  bool
}

func newPool(ctx context.Context, w *Worker) *pool { return &pool{w: w, ctx: ctx} }

// wakeMost is how many may be on their way at once.
var wakeMost = runtime.GOMAXPROCS(0)

// run gives an attempt to the pool. It never blocks; no more are running than slots.
func (p *pool) run(a *tryOut) {
	p.mu.Lock()
	if len(p.queue) == cap(p.queue) && p.head > len(p.queue)/2 { // rather than grow
		n := copy(p.queue, p.queue[p.head:])
		clear(p.queue[n:])
		p.queue, p.head = p.queue[:n], 0
	}
	p.queue = append(p.queue, a)
	p.wake()
	p.mu.Unlock()
}

// wake sees to it that somebody comes for the queue. All goroutines may be busy only while
// one of them is about to come for more: there is a goroutine for each slot.
func (p *pool) wake() {
	switch n := len(p.idle); {
	case p.waking >= wakeMost:
	case n > 0:
		p.waking++
		p.idle[n-1] <- struct{}{} // capacity one, and empty
		p.idle = p.idle[:n-1]
	case p.spawned < p.w.cfg.Concurrency:
		p.waking++
		p.spawned++
		p.w.executors.Add(1)
		go p.executor()
	}
}

// replace makes up for a goroutine that is lost.
func (p *pool) replace() {
	p.mu.Lock()
	p.spawned--
	if p.head < len(p.queue) {
		p.wake()
	}
	p.mu.Unlock()
}

// close ends the goroutines, each when its attempt has ended, and returns what was queued:
// no goroutine has begun it, and none will.
func (p *pool) close() (queued []*tryOut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	queued, p.queue, p.head = p.queue[p.head:], nil, 0
	for _, a := range queued {
		a.state.Store(tryAbandoned)
	}
	p.waking += len(p.idle)
	for _, sleeper := range p.idle {
		sleeper <- struct{}{}
	}
	p.idle = nil
	return queued
}

func (p *pool) executor() {
	sleeper := make(chan struct{}, 1)
	for woken := true; ; woken = false {
		a := p.take(sleeper, woken)
		if a == nil {
			p.w.executors.Done()
			return
		}
		if !p.one(a) {
			return // abandoned meanwhile: not counted, not waited for any more
		}
	}
}

// take waits for an attempt. Nil: there will be none.
func (p *pool) take(sleeper chan struct{}, woken bool) *tryOut {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if woken {
			p.waking--
		}
		if p.head < len(p.queue) {
			break
		}
		if p.closed {
			return nil
		}
		p.idle = append(p.idle, sleeper)
		p.mu.Unlock()
		<-sleeper
		p.mu.Lock()
		woken = true
	}
	a := p.queue[p.head]
	p.queue[p.head] = nil
	if p.head++; p.head == len(p.queue) {
		p.queue, p.head = p.queue[:0], 0
	} else {
		p.wake()
	}
	return a
}

// one runs an attempt and reports whether this goroutine still counts.
func (p *pool) one(a *tryOut) bool {
	ctx := &a.ctx
	ctx.parent, ctx.deadline = p.ctx, a.deadline
	a.end.Store(ctx)
	a.result = a.d.kind.exec.Execute(ctx, &a.attempt)
	ctx.end()
	a.late = !a.state.CompareAndSwap(tryRunning, tryFinished)
	p.w.p.finished.put(a)
	return !a.late
}

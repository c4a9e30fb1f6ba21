package worker

// Stage execute: a bounded pool of goroutines runs attempts.

import (
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/worker/internal/execution"
)

// patrolEvery is how often running attempts are looked at.
const patrolEvery = 500 * time.Millisecond

// tryOut is one attempt under way. late: it had been abandoned when it ended.
type tryOut struct {
	d        *delivery
	attempt  execution.Attempt
	deadline time.Time
	overdue  time.Time // the loop's: when it first saw that the deadline had passed
	result   execution.Result
	ctx      attemptContext
	end      atomic.Pointer[attemptContext] // ctx; nil until it runs
	state    atomic.Int32                   // exactly one of executor and watchdog ends it
	late     bool

	notes  execution.Notes
	silent bool          // the loop's, as all below: it was silent for too long, and its context was ended
	heard  time.Time     // the last sign that the loop knows of
	seen   time.Time     // the last patrol
	quiet  time.Duration // without a sign, as far as patrols saw
	signs  int64         // cancelLoop's: those that Redis counted
	looked uint64        // the loop's: the round in which it was looked up
}

// States of a try.
const (
	tryRunning int32 = iota
	tryFinished
	tryAbandoned
)

// stepExecute starts what was granted, gives up what does not end, and passes
// on what has ended.
func (p *pipeline) stepExecute(now time.Time) {
	for _, d := range p.granted {
		d.started, d.cancelled = now, false
		a := &tryOut{d: d, attempt: execution.Attempt{
			Task: &d.task, Kind: d.kind.Kind, N: d.attempt, Run: d.run, InDoubt: d.inDoubt,
		}}
		a.attempt.Notes, a.seen = &a.notes, now
		a.deadline = now.Add(execution.Timeout(&a.attempt, now))
		d.try = a
		p.running++
		p.pool.run(a)
	}
	clear(p.granted)
	p.granted = p.granted[:0]

	if now.After(p.patrol) {
		p.patrol = now.Add(patrolEvery)
		for i := len(p.claimed.list) - 1; i >= 0; i-- { // the one that is given up may leave the list
			d := p.claimed.list[i]
			a := d.try
			if a != nil && p.silenced(a, now) {
				p.hush(a, now)
			}
			if a != nil && a.ignores(now, p.cfg.AbandonAfter) && a.state.CompareAndSwap(tryRunning, tryAbandoned) {
				p.abandon(d, a, now)
			}
		}
	}

	for _, f := range p.finished.take() {
		if f.late {
			p.strays.add(f.d.kind.Name, -1)
			p.lateOutcome(f)
			continue
		}
		p.ended(f.d)
		p.judge(f.d, f.deadline, f.unheardResult(), now)
	}
}

// ignores reports whether a handler had its chance to see the end of its context.
// The chance begins when the loop sees the deadline pass, not at the deadline: a
// process that was suspended meanwhile gave its handlers none. Nor has one that did not
// begin yet.
func (a *tryOut) ignores(now time.Time, grace time.Duration) bool {
	if now.Before(a.deadline) || a.end.Load() == nil {
		return false
	}
	if a.overdue.IsZero() {
		a.overdue = now
	}
	return now.Sub(a.overdue) > grace
}

// abandon gives up an attempt whose handler ignores its context: its slot is
// free, its goroutine is lost, its task is in doubt. Too many end the worker.
func (p *pipeline) abandon(d *delivery, a *tryOut, now time.Time) {
	p.ended(d)
	p.pool.replace()
	p.executors.Done()
	p.stray(d.kind.Name)
	p.met.abandoned.WithLabelValues(d.kind.Name).Inc()
	p.log.Error("a handler did not return after its context ended: abandoned, its goroutine is lost",
		"task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue, "attempt", d.attempt, "run", d.run,
		"running", now.Sub(d.started).Round(time.Millisecond))
	p.judge(d, a.deadline, abandoned(d.kind.Kind), now)
}

// ended gives the slot of an attempt back; the claim is still held.
func (p *pipeline) ended(d *delivery) {
	d.try = nil
	p.running--
	p.freeSlot(d)
}

// lateOutcome takes what an abandoned handler came to in the end: a success is a
// success whoever owns the task now.
func (p *pipeline) lateOutcome(f *tryOut) {
	if f.result.Outcome != execution.Completed {
		return
	}
	p.settle(settlement{op: opLateDone, d: f.d, late: claims.Outcome{
		TaskID: f.attempt.Task.ID, Epoch: f.attempt.Task.Epoch, Run: f.attempt.Run,
	}})
}

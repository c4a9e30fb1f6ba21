package worker

// Cancel: somebody asked that a running task end. The claim has the flag; the
// loop looks for it every so often, ends the handler's context, and answers for
// what came of it. Tasks that do not run are cancelled without their worker.

import (
	"context"
	"slices"
	"time"

	"github.com/perdure/perdure/internal/claims"
)

const (
	// cancelEvery is how often running tasks are looked up, in one pipeline.
	cancelEvery = 400 * time.Millisecond
	// cancelAge is how long a task runs before it is looked up: most end sooner,
	// and cost nothing.
	cancelAge = 200 * time.Millisecond
	// cancelBatch bounds a pipeline of a look, so that claims need not wait behind it.
	cancelBatch = 1000
	// cancelMost bounds a look: more are looked up in turns, each as often as the others.
	cancelMost = 10 * cancelBatch
)

// stepCancel hands the running tasks to cancelLoop, and ends those of its answer.
func (p *pipeline) stepCancel(now time.Time) {
	for _, a := range p.cancelled.take() {
		p.cancel(a, now)
	}
	if p.running == 0 || now.Before(p.nextCancel) {
		return
	}
	p.nextCancel = now.Add(cancelEvery)
	if len(p.cancelLooks) > 0 {
		return // Redis still answers for the last look
	}
	if running := p.toLookUp(now); len(running) > 0 {
		p.cancelLooks <- running // has room: only the loop puts into it
	}
}

// toLookUp returns the running tasks whose turn it is: all, or those that were
// not among the last ones.
func (p *pipeline) toLookUp(now time.Time) (running []*tryOut) {
	for _, d := range p.claimed.list {
		a := d.try
		if a == nil || d.cancelled || a.looked == p.looks || now.Sub(d.started) < cancelAge {
			continue
		}
		if len(running) == cancelMost {
			return running
		}
		a.looked = p.looks
		running = append(running, a)
	}
	p.looks++ // everybody had a turn
	return running
}

// cancel ends an attempt's context. Its handler has as long to see that as after
// a timeout.
func (p *pipeline) cancel(a *tryOut, now time.Time) {
	d, end := a.d, a.end.Load()
	if d.try != a || d.cancelled || end == nil {
		return // it has ended, or its goroutine is about to begin: the next look
	}
	d.cancelled = true
	a.deadline = now
	end.end()
	p.log.Info("a running task is cancelled: its context ends",
		"task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue, "attempt", d.attempt, "run", d.run)
}

// cancelLoop asks Redis which of the running tasks are to end.
func (w *Worker) cancelLoop(ctx context.Context) {
	for {
		var running []*tryOut
		select {
		case running = <-w.cancelLooks:
		case <-ctx.Done():
			return
		}
		for batch := range slices.Chunk(running, cancelBatch) {
			w.lookUp(ctx, batch)
		}
	}
}

// lookUp asks about one batch.
func (w *Worker) lookUp(ctx context.Context, running []*tryOut) {
	held := make([]claims.Hold, len(running))
	for i, a := range running {
		held[i] = claims.Hold{TaskID: a.attempt.Task.ID, Run: a.attempt.Run}
	}
	asked, err := w.deps.Claims.CancelAsked(ctx, held)
	for i, a := range running {
		if err == nil && asked[i] { // else the beat says that Redis is away; what runs goes on
			w.p.cancelled.put(a)
		}
	}
	w.signs(ctx, running)
}

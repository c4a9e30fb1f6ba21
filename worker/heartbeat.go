package worker

// Heartbeats: an attempt that says nothing for longer than its kind's
// heartbeat_timeout is ended, and how far it is goes to Redis, for people.

import (
	"context"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// tellMost bounds how many tasks' progress one batch of a look tells; the rest is told next time.
const tellMost = 64

const classUnheard = "heartbeat timeout"

// silenced reports whether an attempt of a kind with a heartbeat_timeout was
// silent for longer. A process that was suspended gives its handlers a new
// chance: silence is counted from one patrol to the next, and no more than that.
func (p *pipeline) silenced(a *tryOut, now time.Time) bool {
	limit := a.d.kind.Heartbeat
	if limit == 0 || a.silent {
		return false
	}
	if last := a.notes.Last(); last.After(a.heard) {
		a.heard, a.quiet = last, now.Sub(last)
	} else {
		a.quiet += min(now.Sub(a.seen), 2*patrolEvery)
	}
	a.seen = now
	return a.quiet > limit
}

// hush ends the context of an attempt that was silent for too long; its handler
// has as long to see that as after a timeout.
func (p *pipeline) hush(a *tryOut, now time.Time) {
	end := a.end.Load()
	if end == nil {
		return // its goroutine is about to begin
	}
	a.silent, a.deadline = true, now
	end.end()
	p.log.Warn("an attempt was silent for longer than its kind's heartbeat_timeout: its context ends", "task_id", a.d.task.ID,
		"kind", a.d.task.Kind, "queue", a.d.task.Queue, "attempt", a.d.attempt, "run", a.d.run, "heartbeat_timeout", a.d.kind.Heartbeat)
}

// unheardResult is what an attempt that was ended for its silence comes to; a
// success that it reached all the same stands.
func (a *tryOut) unheardResult() execution.Result {
	r := a.result
	if !a.silent || r.Outcome == execution.Completed || r.Outcome == execution.Elsewhere || r.Outcome == execution.Permanent {
		return r
	}
	r.Class, r.Message = classUnheard, "no heartbeat within "+a.d.kind.Heartbeat.String()+": "+r.Message
	if a.d.kind.Effects == schemas.EffectsOnce {
		r.Outcome = execution.Unknown
	} else {
		r.Outcome = execution.Retry
	}
	return r
}

// signs tells Redis how far running tasks say they are, and asks it for the signs
// of those that run in another process.
func (w *Worker) signs(ctx context.Context, running []*tryOut) {
	var ask []*tryOut
	told := 0
	for _, a := range running {
		if k := a.attempt.Kind; k.HTTP != nil && k.Heartbeat > 0 {
			ask = append(ask, a)
		}
		if told == tellMost {
			continue
		}
		if progress := a.notes.TakeProgress(); progress != nil {
			told++
			_, err := w.deps.Claims.Hear(ctx, claims.Sign{
				TaskID: a.attempt.Task.ID, Run: a.attempt.Run, Counts: a.attempt.Kind.Silence(), Progress: progress,
			})
			if err != nil {
				told = tellMost // Redis is away; the next heartbeat says it again
				w.log.Debug("a task's progress was not told", "task_id", a.attempt.Task.ID, "err", err)
			}
		}
	}
	if len(ask) == 0 {
		return
	}
	held := make([]claims.Hold, len(ask))
	for i, a := range ask {
		held[i] = claims.Hold{TaskID: a.attempt.Task.ID, Run: a.attempt.Run}
	}
	counts, err := w.deps.Claims.Signs(ctx, held)
	for i, a := range ask {
		switch {
		case err != nil: // a Redis that is away makes nobody silent
			a.notes.Beat(nil)
		case counts[i] != a.signs:
			a.signs = counts[i]
			a.notes.Beat(nil)
		}
	}
}

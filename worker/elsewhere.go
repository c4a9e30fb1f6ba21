package worker

// Work that goes on elsewhere (docs/decisions/0180): its claim waits for the next
// attempt and keeps the run, under which its end is reported. A record that is
// due when it has been silent for too long, the timer, stands for it in Kafka; a
// task of an ordered kind waits at its own record instead, so that its key waits
// with it.

import (
	"context"
	"encoding/json"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	// lookEvery is how often a task that waits here for work elsewhere is asked about.
	lookEvery = time.Second
	// timerSlack is how much later than the last heartbeat's end a timer is due, so
	// that it rarely comes just too early and has to be timed again.
	timerSlack = 500 * time.Millisecond
)

// tellMost bounds how many tasks' progress one look tells; the rest is told next time.
const tellMost = 64

const classUnheard = "heartbeat timeout"

var timerHeader = kgo.RecordHeader{Key: schemas.HeaderTimer, Value: []byte(schemas.TimerElsewhere)}

func isTimer(r *kgo.Record) bool {
	for i := range r.Headers {
		if r.Headers[i].Key == schemas.HeaderTimer {
			return true
		}
	}
	return false
}

// goesOn lets go of a task whose work was handed on.
func (p *pipeline) goesOn(d *delivery, now time.Time) {
	silence := d.kind.Silence()
	p.met.waiting.WithLabelValues(d.task.Queue, string(schemas.WaitExternal)).Inc()
	p.tell(d, dlq.EventWaiting, execution.Result{}, map[string]any{"reason": schemas.WaitExternal})
	p.settle(settlement{
		op: opWait, d: d, next: d.attempt + 1, due: p.timerDue(d, silence, now),
		local: d.ordered() && !d.shared(), silence: silence,
	})
}

// timerDue is when the timer of work that may be silent for so long is due.
func (p *pipeline) timerDue(d *delivery, silence time.Duration, now time.Time) time.Time {
	due := now.Add(silence + timerSlack)
	if !d.task.Deadline.IsZero() && d.task.Deadline.Before(due) {
		return d.task.Deadline
	}
	return due
}

// lookDue is when a delivery that waits here goes on.
func lookDue(d *delivery, due, now time.Time) time.Time {
	if look := now.Add(lookEvery); d.elsewhere > 0 && look.Before(due) {
		return look
	}
	return due
}

// unheard follows a silence of work elsewhere that lasted too long. The claim is
// granted, in doubt: nobody can say what has become of the attempt.
func (p *pipeline) unheard(d *delivery, now time.Time) {
	r := execution.Result{
		Outcome: execution.Retry, Class: classUnheard,
		Message: "the work went on elsewhere and was not heard of within " + d.kind.Silence().String(),
	}
	d.attempt-- // the one that was silent
	d.remember(r, "", now)
	d.attempt++
	p.tell(d, dlq.EventInDoubt, r, nil)
	if d.attempt > d.kind.Retry.MaxAttempts {
		p.nothingRuns(d)
		d.attempt--
		p.settleDead(d, schemas.ReasonExhausted)
		return
	}
	p.start(d, now)
}

// reported acts on a failure that was reported: the claim is granted for that,
// and nothing runs.
func (p *pipeline) reported(d *delivery, report []byte, now time.Time) {
	p.nothingRuns(d)
	if d.asg.draining || p.stopping {
		p.settle(settlement{op: opHandBack, d: d})
		return
	}
	var f execution.Failure
	if err := json.Unmarshal(report, &f); err != nil {
		p.log.Error("a report cannot be read: its attempt counts as failed", "task_id", d.task.ID, "err", err)
	}
	r := execution.Result{Outcome: execution.Retry, Class: f.Class, Message: f.Message, After: f.After}
	d.attempt = max(d.attempt-1, 1) // the one that it ends
	d.started = now
	d.remember(r, f.By, now)
	switch {
	case f.Outcome == schemas.OutcomeDead:
		p.settleDead(d, schemas.ReasonPermanent)
	case f.Outcome == schemas.OutcomeUnknown && d.kind.Effects == schemas.EffectsOnce:
		p.tell(d, dlq.EventInDoubt, r, nil)
		p.settleDead(d, schemas.ReasonUnknown)
	default:
		p.retry(d, r, now)
	}
}

// nothingRuns gives back the slot of a grant under which nothing is run.
func (p *pipeline) nothingRuns(d *delivery) {
	p.freeSlot(d)
	d.unprobe()
}

// keepResult writes what a task found, then lets it be done. Kafka has it before
// the task is done, or it is lost with a line in the log: a task is not run again
// for that.
func (p *pipeline) keepResult(d *delivery, value []byte) {
	rec := dlq.EncodeEvent(&dlq.Event{
		TaskID: d.task.ID, Epoch: d.task.Epoch, Attempt: d.attempt, Run: d.run, Type: dlq.EventResult,
		At: time.Now().UTC(), Worker: p.cfg.Instance, Data: value,
	})
	rec.Topic = p.deps.Names.Events(d.asg.intake.queue)
	p.producer.TryProduce(p.produceCtx, rec, func(_ *kgo.Record, err error) {
		p.orders.put(func(time.Time) {
			if err != nil {
				p.met.eventErrors.Inc()
				p.log.Error("a task's result could not be written and is lost; the task is completed", "task_id", d.task.ID, "kind", d.task.Kind, "err", err)
			}
			p.settle(settlement{op: opDone, d: d})
		})
	})
}

// silenced reports whether an attempt of a kind with a heartbeat_timeout was
// silent for longer. A process that was suspended gives its handlers a new chance: silence
// is counted from one patrol to the next, and no more than that.
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

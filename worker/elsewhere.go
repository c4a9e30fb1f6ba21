package worker

// Work that goes on elsewhere (docs/decisions/0180): its claim waits for the next
// attempt and keeps the run, under which its end is reported. A record that is
// due when it has been silent for too long, the timer, stands for it in Kafka; a
// task of an ordered kind waits at its own record instead, so that its key waits
// with it.

import (
	"encoding/json"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
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
		local: d.ordered() && !d.shared(), elsewhere: silence,
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
func (p *pipeline) unheard(d *delivery, silent int64, now time.Time) {
	r := execution.Result{
		Outcome: execution.Retry, Class: classUnheard,
		Message: "the work went on elsewhere, and nothing is known of it within " + d.kind.Silence().String(),
	}
	d.endElsewhere(d.attempt-1, silent, r, "", now)
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
func (p *pipeline) reported(d *delivery, report []byte, by int64, now time.Time) {
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
	d.endElsewhere(d.attempt, by, r, f.By, now)
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

// endElsewhere adds to the history an attempt that ended elsewhere, under the run
// that it was granted.
func (d *delivery) endElsewhere(attempt int, run int64, r execution.Result, by string, now time.Time) {
	granted, next := d.run, d.attempt
	d.run, d.attempt = run, attempt
	d.remember(r, by, now)
	d.run, d.attempt = granted, next
}

// nothingRuns gives back the slot of a grant under which nothing is run.
func (p *pipeline) nothingRuns(d *delivery) {
	p.freeSlot(d)
	d.unprobe()
}

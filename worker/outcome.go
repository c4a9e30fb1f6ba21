package worker

// Stage outcome: what an attempt's result means for its task. It is written to
// Redis first, then to Kafka where there is a next hop, and only then is the
// record acknowledged: a redelivery repeats the hop, not the run.

import (
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// againFor is the wait after an attempt that used none up: 409, a stop.
const againFor = time.Second

// judge decides what becomes of a task whose attempt has ended.
func (p *pipeline) judge(d *delivery, deadline time.Time, r execution.Result, now time.Time) {
	p.met.attempt(d.kind.Name, r.Outcome, now.Sub(d.started))
	p.reportBreaker(d, r, now)
	interrupted := p.workCtx.Err() != nil && now.Before(deadline)
	switch {
	case r.Outcome == execution.Completed && r.Value != nil:
		p.keepResult(d, r.Value)
	case r.Outcome == execution.Completed:
		p.settle(settlement{op: opDone, d: d})
	case d.cancelled && (r.Outcome != execution.Unknown || d.kind.Effects != schemas.EffectsOnce):
		// Whatever else it failed with: it was asked to end, and it ended.
		p.settle(settlement{op: opCancelled, d: d})
	case r.Outcome == execution.Elsewhere:
		p.goesOn(d, now)
	case interrupted && r.Outcome != execution.Permanent:
		p.interrupted(d, r, now)
	case r.Outcome == execution.Permanent:
		d.remember(r, p.cfg.Instance, now)
		p.settleDead(d, schemas.ReasonPermanent)
	case r.Outcome == execution.Unknown && d.kind.Effects == schemas.EffectsOnce:
		d.remember(r, p.cfg.Instance, now)
		p.tell(d, dlq.EventInDoubt, r, nil)
		p.settleDead(d, schemas.ReasonUnknown)
	case r.Outcome == execution.Again, r.Outcome == execution.Misconfigured:
		p.again(d, r, now)
	default: // Retry, and Unknown of a kind whose effects may be repeated
		d.remember(r, p.cfg.Instance, now)
		p.retry(d, r, now)
	}
}

// interrupted is an attempt that a stop cut off. It is not the task's failure:
// where a second run does no harm, the next worker runs the same attempt; where
// it might, the claim stays and the task is in doubt.
func (p *pipeline) interrupted(d *delivery, r execution.Result, now time.Time) {
	if d.kind.Effects == schemas.EffectsOnce {
		p.leaveInDoubt(d, r, now)
		return
	}
	p.settle(settlement{op: opWait, d: d, next: d.attempt, due: now, local: true})
}

// again is an attempt that did not count: the task waits here, at its record.
func (p *pipeline) again(d *delivery, r execution.Result, now time.Time) {
	due := now.Add(max(r.After, againFor))
	if d.kind.breaker.open() {
		due = now // its kind's line is held up by the breaker
		p.met.waiting.WithLabelValues(d.task.Queue, string(schemas.WaitBreaker)).Inc()
		p.tell(d, dlq.EventWaiting, r, map[string]any{"reason": schemas.WaitBreaker, "kind": d.kind.Name, "next_at": d.kind.breaker.until.UTC()})
	}
	d.why = r
	p.settle(settlement{op: opWait, d: d, next: d.attempt, due: due, local: !d.shared()})
}

// retry is an attempt that failed and counts.
func (p *pipeline) retry(d *delivery, r execution.Result, now time.Time) {
	if d.attempt >= d.kind.Retry.MaxAttempts {
		p.settleDead(d, schemas.ReasonExhausted)
		return
	}
	delay := backoff(d.kind.Retry, d.attempt, r.After)
	due := now.Add(delay)
	if d.task.Expired(due) {
		p.settleDead(d, schemas.ReasonExpired)
		return
	}
	_, tier := kafka.TierFor(delay)
	p.tell(d, dlq.EventFailed, r, map[string]any{"next_at": due.UTC()})
	p.settle(settlement{op: opWait, d: d, next: d.attempt + 1, due: due, local: (!tier || d.ordered()) && !d.shared()})
}

func (p *pipeline) settleDead(d *delivery, reason schemas.Reason) {
	p.settle(settlement{op: opDead, d: d, reason: reason})
}

func (p *pipeline) reportBreaker(d *delivery, r execution.Result, now time.Time) {
	b := d.kind.breaker
	bad := r.Outcome == execution.Misconfigured
	changed := b.report(bad, d.probe, now)
	d.probe = false
	if !changed {
		return
	}
	if bad {
		p.met.breaker.WithLabelValues(d.kind.Name).Set(1)
		p.log.Error("breaker open: the endpoint is misconfigured or being deployed; its tasks wait and use no attempts",
			"endpoint", b.endpoint, "kind", d.task.Kind, "error_class", r.Class, "err", r.Message, "next_probe_in", b.pause)
		return
	}
	p.met.breaker.WithLabelValues(d.kind.Name).Set(0)
	p.tell(d, dlq.EventBreakerClosed, execution.Result{}, map[string]any{"kind": d.kind.Name})
	p.log.Info("breaker closed: the endpoint answers", "endpoint", b.endpoint, "kind", d.task.Kind)
}

package worker

// The next hop of a record: a delay topic, the dead-letter topic, the events.

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// hopAgain is the wait before a hop that Kafka refused is tried again.
const hopAgain = 2 * time.Second

// hopResult is Kafka's answer to the records of one delivery.
type hopResult struct {
	d   *delivery
	err error
}

// produce sends d.hop; the delivery is acknowledged once Kafka has it.
func (p *pipeline) produce(d *delivery) {
	w := p.Worker
	p.away[d] = "its next record is being written to " + d.hop[0].Topic
	for _, r := range d.hop {
		// One record a delivery today; the last answer would not speak for more.
		p.producer.TryProduce(p.produceCtx, r, func(_ *kgo.Record, err error) {
			w.p.hopped.put(hopResult{d, err})
		})
	}
}

// hopped1 acknowledges, or tries again: the outcome stands in Redis, so that a
// restart in between repeats the hop and not the run.
func (p *pipeline) hopped1(h hopResult, now time.Time) {
	d := h.d
	if h.err == nil {
		d.hop = nil
		p.ack(d, now)
		return
	}
	if p.stopping || d.asg.draining || errors.Is(h.err, kgo.ErrClientClosed) {
		p.letGo(d)
		p.release(d, now) // its next owner repeats the hop
		return
	}
	topic := d.hop[0].Topic
	p.met.hopErrors.WithLabelValues(d.asg.intake.queue).Inc()
	p.log.Error("cannot write a task's next record, trying again; its source stays uncommitted",
		"topic", topic, "task_id", d.task.ID, "queue", d.task.Queue, "err", h.err)
	d.rehop = true
	p.park(d, now.Add(hopAgain))
}

// hopRetry produces attempt d.attempt onto the delay topics.
func (p *pipeline) hopRetry(d *delivery, due, now time.Time) {
	if d.elsewhere == 0 {
		p.met.retries.WithLabelValues(d.kind.Name).Inc()
	}
	tier, ok := kafka.TierFor(due.Sub(now))
	switch {
	case !ok && d.shared():
		// Too short for a tier: a new record, which waits in whoever gets it.
		p.produceOnto(d, p.deps.Names.Tasks(d.task.Queue), due, d.elsewhere > 0)
		return
	case !ok:
		tier = kafka.Tiers[0]
	}
	t := d.task
	t.Attempt, t.Run, t.Due = d.attempt, max(d.run, t.Run), due
	if t.Place == 0 && d.blocking() {
		t.Place = d.rec.Offset + 1
	}
	headers := schemas.AppendRetryHeaders(make([]kgo.RecordHeader, 0, 20), &t)
	if d.elsewhere > 0 {
		headers = append(headers, timerHeader)
	}
	d.hop = []*kgo.Record{{Topic: p.deps.Names.Retry(tier.Name), Key: d.rec.Key, Value: d.rec.Value, Headers: headers}}
	p.produce(d)
}

// hopLetter produces the dead letter of a task whose claim is dead.
func (p *pipeline) hopLetter(d *delivery, reason schemas.Reason, now time.Time) {
	if p.blocks != nil && d.blocking() && reason != schemas.ReasonBlocked && !d.blocked {
		p.block(d, func(now time.Time) { p.hopLetter(d, reason, now) })
		return
	}
	d.hop = []*kgo.Record{p.letter(d, reason, d.history, now)}
	p.tell(d, dlq.EventDead, d.why, map[string]any{"reason": reason})
	p.log.Warn("a task died", "task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue,
		"attempt", d.attempt, "run", d.run, "reason", reason, "error_class", d.why.Class)
	p.produce(d)
}

// letterAgain goes on with a task that is dead already: its letter may be
// missing, or its hook's answer.
func (p *pipeline) letterAgain(d *delivery, g *claims.Grant, now time.Time) {
	c := &g.Claim
	d.attempt, d.run, d.history = max(c.Attempt, 1), c.Run, decodeHistory(c.History)
	reason := schemas.Reason(c.Reason)
	switch {
	case len(d.history) > 0:
		last := d.history[len(d.history)-1]
		d.why = execution.Result{Class: last.ErrorClass, Message: last.Message, Stack: last.Stack, Fingerprint: last.Fingerprint}
	case reason == schemas.ReasonBlocked:
		d.why = execution.Result{Class: "blocked", Message: "waits until an earlier task of its key is settled"}
	case reason == schemas.ReasonPoison:
		d.why = execution.Result{Class: "crash", Message: "its worker died each time it ran this task"}
	case reason == schemas.ReasonUnknown && (d.timer || d.elsewhere > 0):
		d.why = execution.Result{Class: classUnheard, Message: "the work went on elsewhere, and nothing is known of it any more"}
	case reason == schemas.ReasonUnknown:
		d.why = execution.Result{Class: "in doubt", Message: "its worker went silent while it ran this task; whether the effect happened is not known"}
	}
	p.died(d, reason, now)
}

// letter makes the record of a dead letter.
func (p *pipeline) letter(d *delivery, reason schemas.Reason, history []dlq.Attempt, now time.Time) *kgo.Record {
	l := dlq.From(d.rec, d.asg.intake.group)
	l.Reason, l.ErrorClass, l.Message = reason, d.why.Class, d.why.Message
	l.Release, l.Catalog = p.cfg.Release, p.deps.Catalog.Hash
	l.Run, l.Attempts, l.DiedAt = d.run, history, now
	l.Block, l.BlockedBy = d.blocking() && reason != schemas.ReasonBlocked, d.blockedBy
	if d.why.Fingerprint != "" {
		l.Fingerprint = dlq.NamedFingerprint(l.Kind, d.why.Fingerprint)
	}
	if d.why.Stack != "" && len(history) == 0 {
		l.Attempts = []dlq.Attempt{{N: d.attempt, Run: d.run, Worker: p.cfg.Instance, Stack: d.why.Stack, ErrorClass: d.why.Class, Message: d.why.Message}}
	}
	rec := dlq.Encode(l)
	rec.Topic = p.deps.Names.DLQ(d.asg.intake.queue)
	p.met.letters.WithLabelValues(d.asg.intake.queue, string(reason)).Inc()
	return rec
}

// hopResolved says on the dead-letter topic that a task which had died, or was
// replayed, is completed.
func (p *pipeline) hopResolved(d *delivery, now time.Time) {
	rec := dlq.Resolved(d.task.RecordKey(), d.task.ID, d.task.Epoch, now)
	rec.Topic = p.deps.Names.DLQ(d.asg.intake.queue)
	d.hop = []*kgo.Record{rec}
	p.tell(d, dlq.EventResolved, execution.Result{}, nil)
	p.produce(d)
}

// hopCancelled says there that one which was replayed is cancelled.
func (p *pipeline) hopCancelled(d *delivery, now time.Time) {
	rec := dlq.Cancelled(d.task.RecordKey(), d.task.ID, d.task.Epoch, now)
	rec.Topic = p.deps.Names.DLQ(d.asg.intake.queue)
	d.hop = []*kgo.Record{rec}
	p.produce(d)
}

// eventPatience bounds the wait for Kafka to take an event that is waited for.
const eventPatience = 5 * time.Second

var errNoAnswer = errors.New("no answer from Kafka within " + eventPatience.String() + ", or before the worker's stop")

// tellFirst produces an event and goes on with then, on the loop, once Kafka has
// it; or with why not: no partition is held up, because the topic of events takes
// nothing. A stop whose grace is over waits no longer: an outcome that nobody
// writes is a task in doubt.
func (p *pipeline) tellFirst(d *delivery, what dlq.EventType, data []byte, then func(error, time.Time)) {
	rec := dlq.EncodeEvent(&dlq.Event{
		TaskID: d.task.ID, Epoch: d.task.Epoch, Attempt: d.attempt, Run: d.run, Type: what,
		At: time.Now().UTC(), Worker: p.cfg.Instance, Data: data,
	})
	rec.Topic = p.deps.Names.Events(d.asg.intake.queue)
	patience, over := context.WithTimeout(p.workCtx, eventPatience)
	var once sync.Once
	told := func(err error) {
		once.Do(func() {
			if err != nil {
				p.met.eventErrors.Inc()
			}
			p.orders.put(func(now time.Time) { then(err, now) })
		})
		over()
	}
	stop := context.AfterFunc(patience, func() { told(errNoAnswer) })
	p.events.TryProduce(p.produceCtx, rec, func(_ *kgo.Record, err error) {
		stop()
		told(err)
	})
}

// keepResult writes what a task found, then lets it be done. Kafka has it before
// the task is done, or it is lost with a line in the log: no task is run again
// because the topic of events takes nothing.
func (p *pipeline) keepResult(d *delivery, value []byte) {
	p.tellFirst(d, dlq.EventResult, value, func(err error, _ time.Time) {
		if err != nil {
			p.log.Error("a task's result was not written and may be lost; the task is completed", "task_id", d.task.ID, "kind", d.task.Kind, "err", err)
		}
		p.settle(settlement{op: opDone, d: d})
	})
}

// tell produces an event: for people, best effort, never waited for.
func (p *pipeline) tell(d *delivery, what dlq.EventType, r execution.Result, data map[string]any) {
	e := dlq.Event{
		TaskID: d.task.ID, Epoch: d.task.Epoch, Attempt: d.attempt, Run: d.run, Type: what,
		At: time.Now().UTC(), Worker: p.cfg.Instance, ErrorClass: r.Class, Message: r.Message,
	}
	if data != nil {
		b, err := json.Marshal(data)
		if err != nil {
			p.log.Debug("event data", "err", err)
		}
		e.Data = b
	}
	rec := dlq.EncodeEvent(&e)
	rec.Topic = p.deps.Names.Events(d.asg.intake.queue)
	p.events.TryProduce(p.produceCtx, rec, func(_ *kgo.Record, err error) {
		if err != nil {
			p.met.eventErrors.Inc()
		}
	})
}

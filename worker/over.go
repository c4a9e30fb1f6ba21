package worker

// The end of a task that holds a unique key until it has ended
// (docs/decisions/0196): it is told on the topic of events, where the index reads
// it and gives the key back. Other tasks are just acknowledged.

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
)

// over acknowledges the record of a task that is done or cancelled, in Redis. If
// it holds a key, Kafka has its end first: a worker that is killed in between
// leaves a record that comes again, finds the task done, and comes by here.
func (p *pipeline) over(d *delivery, now time.Time) {
	if !d.task.Unique {
		p.ack(d, now)
		return
	}
	p.tellFirst(d, dlq.EventReleased, nil, func(err error, now time.Time) {
		switch {
		case err == nil:
		case p.stopping, d.asg.draining, errors.Is(err, kgo.ErrClientClosed):
			p.letGo(d)
			p.release(d, now) // its next owner says it
			return
		default:
			p.log.Warn("the end of a task that holds a unique key could not be told: the key is given back later, when the replayer looks for such tasks",
				"task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue, "err", err)
		}
		p.ack(d, now)
	})
}

// itIsOver follows the end of a task that its claim tells. One that was replayed and
// then cancelled settles its letter: its replay waits for that, and may be a key.
func (p *pipeline) itIsOver(d *delivery, s claims.State, now time.Time) {
	if s == claims.Cancelled && d.task.Epoch > 0 {
		p.hopCancelled(d, now) // which gives a unique key back too
		return
	}
	p.over(d, now)
}

// overLate tells the end of a task whose record has gone its way already.
func (p *pipeline) overLate(d *delivery, epoch int, run int64) {
	if !d.task.Unique {
		return
	}
	rec := dlq.EncodeEvent(&dlq.Event{TaskID: d.task.ID, Epoch: epoch, Attempt: d.attempt, Run: run, Type: dlq.EventReleased, At: time.Now().UTC(), Worker: p.cfg.Instance})
	rec.Topic = p.deps.Names.Events(d.asg.intake.queue)
	p.events.TryProduce(p.produceCtx, rec, func(_ *kgo.Record, err error) {
		if err != nil {
			p.met.eventErrors.Inc()
		}
	})
}

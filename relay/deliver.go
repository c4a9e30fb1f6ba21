package relay

// Delivering rows: each becomes a record or a letter that Kafka has
// acknowledged, or is left to be filed. All of a pass, or nothing.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/relaylog"
)

// fate of a row in a pass.
type fate uint8

const (
	fateSent  fate = iota // acknowledged on its queue's topic
	fateDead              // acknowledged as a dead letter
	fateLater             // not due: to perdure.scheduled
	fatePark              // its queue's topic is broken, or keeps others waiting: to perdure.parked
)

func (f fate) String() string { return [...]string{"sent", "dead", "scheduled", "parked"}[f] }

// delivery is what became of a slab's rows, in their order. It lives in the slab.
type delivery struct {
	rows  []row
	fates []fate
	hops  []relaylog.Hop // of sent and dead rows
	count [4]int         // rows by fate
}

func (d *delivery) has(f fate) bool { return d.count[f] > 0 }

// deliver produces rows, which are in the order that they must keep, and waits for
// Kafka. Rows of a queue whose topic refuses all, or keeps others waiting, are to be
// parked. On an error nothing has moved, and the same rows may be given again: that
// of a queue which cannot take records is a *waitError, and noted in t.parked.
func (t *term) deliver(ctx context.Context, m *slab) (*delivery, error) {
	if err := t.prepare(ctx, m, false); err != nil {
		return nil, err
	}
	if len(m.send) > 0 {
		s, stuck, err := t.out.send(ctx, m.send, t.control)
		if errors.Is(err, errUnsure) {
			if rerr := t.reopen(); rerr != nil {
				return nil, rerr
			}
			return nil, &waitError{classSlow, fmt.Errorf("kafka: %w", t.r.broker.because(err))}
		}
		if err != nil {
			return nil, err
		}
		if len(stuck) > 0 {
			if err := t.giveUp(ctx, m, s, stuck); err != nil {
				return nil, err
			}
		}
		if err := t.judge(m.rows, m.records, s.failed()); err != nil {
			return nil, err
		}
	}
	return t.delivered(m), nil
}

// prepare makes the records of rows, and says what becomes of those that have none.
// retry is for rows that are parked already: none of them is parked again.
func (t *term) prepare(ctx context.Context, m *slab, retry bool) error {
	if err := t.out.ask(ctx, t.topicsOf(m.rows)); err != nil {
		return err
	}
	m.begin()
	t.encoder.begin(ctx, time.Now())
	var way *route
	for i := range m.rows {
		o := &m.rows[i]
		if way == nil || way.queue != o.queue {
			way = t.routeOf(o.queue)
		}
		if way.parked && !retry {
			m.fates[i] = file(o)
			continue
		}
		if way.tasks.err != nil {
			if retry {
				return &waitError{classQueue, fmt.Errorf("kafka: topic of queue %s: %w", o.queue, way.tasks.err)}
			}
			t.park(o.queue, way.tasks.err)
			way.parked = true
			m.fates[i] = file(o)
			continue
		}
		if o.later && o.checked {
			m.fates[i] = fateLater // it is without its payload; what else may be wrong is found when it is due
			continue
		}
		rec := &m.made[i]
		bad := t.encoder.encode(m, o, way.topic, rec)
		death := t.r.examine(o, rec, way.tasks.limit, bad)
		if death != nil && !o.later && t.encoder.condemn(m, rec, death, way.tasks.limit) {
			death = nil
		}
		if death != nil {
			rec = t.r.letter(o, rec, death, way.letters.limit)
			m.fates[i] = fateDead
		} else if o.later {
			m.fates[i] = fateLater
			continue
		}
		m.records[i] = rec
		m.send = append(m.send, rec)
	}
	return nil
}

// delivered is what became of rows whose records are all answered for.
func (t *term) delivered(m *slab) *delivery {
	t.r.high = max(t.r.high, highest(m.rows))
	for i, rec := range m.records {
		if rec != nil {
			m.hops = append(m.hops, relaylog.Hop{ID: m.rows[i].id, Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset})
		}
	}
	d := &delivery{rows: m.rows, fates: m.fates, hops: m.hops}
	for _, f := range m.fates {
		d.count[f]++
	}
	return d
}

// route is what a pass knows of a queue's topics.
type route struct {
	queue, topic, dlq string
	tasks, letters    topic
	parked            bool
}

// maxRoutes bounds what is kept of queues that are in no catalog.
const maxRoutes = 1000

// routeOf looks at a queue's topics anew. Its result holds until the next call
// for the same queue.
func (t *term) routeOf(queue string) *route {
	way := t.route(queue)
	way.tasks, _ = t.out.topics.get(way.topic)
	way.letters, _ = t.out.topics.get(way.dlq)
	_, way.parked = t.parked[queue]
	return way
}

func (t *term) route(queue string) *route {
	way := t.routes[queue]
	if way == nil {
		if len(t.routes) >= maxRoutes {
			clear(t.routes)
		}
		way = &route{queue: queue, topic: t.r.deps.Names.Tasks(queue), dlq: t.r.deps.Names.DLQ(queue)}
		t.routes[queue] = way
	}
	return way
}

// file says where a row of a broken queue is kept: if it is not due, where it
// would be anyway.
func file(o *row) fate {
	if o.later {
		return fateLater
	}
	return fatePark
}

// topicsOf are the topics that rows may go to.
func (t *term) topicsOf(rows []row) map[string]struct{} {
	names := map[string]struct{}{}
	last := ""
	for i := range rows {
		if q := rows[i].queue; q != last {
			way := t.route(q)
			names[way.topic], names[way.dlq] = struct{}{}, struct{}{}
			last = q
		}
	}
	return names
}

func highest(rows []row) int64 {
	var id int64
	for i := range rows {
		id = max(id, rows[i].id)
	}
	return id
}

// judge turns the errors of records into what the next try needs to know.
func (t *term) judge(rows []row, records []*kgo.Record, errs map[*kgo.Record]error) error {
	if len(errs) == 0 {
		return nil
	}
	var worst error
	class := ""
	for i, rec := range records {
		err, failed := errs[rec]
		if rec == nil || !failed {
			continue
		}
		if c := classify(err); rank[c] > rank[class] {
			worst, class = fmt.Errorf("kafka: produce to %s: %w", rec.Topic, t.r.broker.because(err)), c
		}
		switch classify(err) {
		case classQueue:
			t.park(rows[i].queue, err)
			t.out.topics.set(rec.Topic, topic{})
		case classTooLarge:
			if again := t.out.refuse(rec.Topic); again && rec.Topic == t.r.deps.Names.DLQ(rows[i].queue) {
				t.park(rows[i].queue, err) // not even its letter fits, though it was cut
			}
		}
	}
	return &waitError{class, worst}
}

// rank orders what is told when several records failed differently.
var rank = map[string]int{"": 0, classSlow: 1, classQueue: 2, classTooLarge: 3, classRetry: 4}

// park notes that a queue's topic is broken.
func (t *term) park(queue string, err error) {
	if _, already := t.parked[queue]; already {
		return
	}
	why := err.Error()
	if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
		why = "the topic does not exist: run `perdure topics plan`"
	}
	t.parked[queue], t.probe = why, time.Time{}
	t.r.metrics.parked.WithLabelValues(t.r.metrics.label(queue)).Set(1)
	t.r.log.Error("parking the tasks of a queue", "queue", queue, "why", why)
}

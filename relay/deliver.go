package relay

// Delivering rows: each becomes a record or a letter that Kafka has
// acknowledged, or is left to be filed. All of a pass, or nothing.

import (
	"context"
	"errors"
	"fmt"

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
	fatePark              // its queue's topic is broken: to perdure.parked
)

func (f fate) String() string { return [...]string{"sent", "dead", "scheduled", "parked"}[f] }

// delivery is what became of rows, in their order.
type delivery struct {
	rows  []row
	fates []fate
	hops  []relaylog.Hop // of sent and dead rows
}

// deliver produces rows, which are in the order that they must keep. A queue
// that cannot take records is noted in t.parked and the error is a *waitError:
// nothing has moved, and the same rows given again park those of that queue.
// retry is for rows that are parked already: none of them is parked again.
func (t *term) deliver(ctx context.Context, rows []row, retry bool) (*delivery, error) {
	d := &delivery{rows: rows, fates: make([]fate, len(rows))}
	if err := t.out.ask(ctx, t.topicsOf(rows)); err != nil {
		return nil, err
	}
	records := make([]*kgo.Record, len(rows)) // nil: not produced
	send := make([]*kgo.Record, 0, len(rows))
	for i := range rows {
		o := &rows[i]
		if _, broken := t.parked[o.queue]; broken && !retry {
			d.fates[i] = t.file(o)
			continue
		}
		k, _ := t.out.topics.get(t.r.deps.Names.Tasks(o.queue))
		if k.err != nil {
			if retry {
				return nil, &waitError{classQueue, fmt.Errorf("kafka: topic of queue %s: %w", o.queue, k.err)}
			}
			t.park(o.queue, k.err)
			d.fates[i] = t.file(o)
			continue
		}
		task, bad := t.r.task(o)
		rec := t.r.record(task)
		if death := t.r.examine(o, rec, k.limit, bad); death != nil {
			letters, _ := t.out.topics.get(t.r.deps.Names.DLQ(o.queue))
			rec = t.r.letter(o, rec, death, letters.limit)
			d.fates[i] = fateDead
		} else if o.later {
			d.fates[i] = fateLater
			continue
		}
		records[i] = rec
		send = append(send, rec)
	}
	if len(send) > 0 {
		errs, err := t.out.send(ctx, send)
		if err != nil {
			return nil, err
		}
		if err := t.judge(rows, records, errs); err != nil {
			return nil, err
		}
	}
	t.r.high = max(t.r.high, highest(rows))
	d.hops = make([]relaylog.Hop, 0, len(send))
	for i, rec := range records {
		if rec != nil {
			d.hops = append(d.hops, relaylog.Hop{ID: rows[i].id, Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset})
		}
	}
	return d, nil
}

// file says where a row of a broken queue is kept: if it is not due, where it
// would be anyway.
func (t *term) file(o *row) fate {
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
			names[t.r.deps.Names.Tasks(q)] = struct{}{}
			names[t.r.deps.Names.DLQ(q)] = struct{}{}
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
	class, sent := "", 0
	for i, rec := range records {
		err, failed := errs[rec]
		switch {
		case rec == nil:
			continue
		case !failed:
			sent++
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
	// A topic that takes nothing while others do is broken; if none does, Kafka is.
	if class == classSlow && sent > 0 {
		for i, rec := range records {
			if err, failed := errs[rec]; rec != nil && failed && errors.Is(err, kgo.ErrRecordTimeout) {
				t.park(rows[i].queue, err)
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
	t.parked[queue] = why
	t.r.metrics.parked.WithLabelValues(t.r.metrics.label(queue)).Set(1)
	t.r.log.Error("parking the tasks of a queue", "queue", queue, "why", why)
}

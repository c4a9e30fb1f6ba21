package relay

// Moving due retries: produce, wait for every acknowledgement, commit.

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// moving is the part of a lane that goes now.
type moving struct {
	lane    lane
	from    *waiting
	records []*kgo.Record // as fetched
	out     []*kgo.Record // as they go on
}

// moveDue moves everything that is due. On an error what was acknowledged in
// front of the failure is committed, the rest comes again.
func (m *mover) moveDue(ctx context.Context) error {
	now := time.Now()
	batch := m.takeDue(now)
	if len(batch) == 0 {
		return nil
	}
	var all []*kgo.Record
	for _, b := range batch {
		all = append(all, b.out...)
	}
	errs := m.produce(ctx, all)
	// Where the way back is barred for one queue, its records wait another
	// round, so that they hold up nobody else's.
	var round []*kgo.Record
	for _, b := range batch {
		for i, rec := range b.out {
			if c := classify(errs[rec]); errs[rec] != nil && (c == classQueue || c == classSlow) && isQueued(b.records[i]) {
				m.r.log.Warn("a queue takes no retries back, they wait another round", "topic", rec.Topic, "cause", errs[rec])
				b.out[i] = m.again(b.records[i], kafka.Tiers[0])
				round = append(round, b.out[i])
			}
		}
	}
	for rec, err := range m.produce(ctx, round) {
		errs[rec] = err
	}
	return m.settle(ctx, batch, errs)
}

// takeDue collects the due records at the front of every lane.
func (m *mover) takeDue(now time.Time) []*moving {
	m.mu.Lock()
	defer m.mu.Unlock()
	var batch []*moving
	for at, w := range m.lanes {
		b := &moving{lane: at, from: w}
		for i, rec := range w.records {
			if w.ready(i).After(now) {
				break
			}
			b.records = append(b.records, rec)
			b.out = append(b.out, m.onward(rec, now))
		}
		if len(b.records) > 0 {
			batch = append(batch, b)
		}
	}
	return batch
}

// produce sends records and returns those that failed.
func (m *mover) produce(ctx context.Context, records []*kgo.Record) map[*kgo.Record]error {
	errs := map[*kgo.Record]error{}
	if len(records) == 0 {
		return errs
	}
	for _, res := range m.cl.ProduceSync(ctx, records...) {
		if res.Err != nil {
			errs[res.Record] = res.Err
		}
	}
	return errs
}

// settle commits what was acknowledged without a gap and forgets it.
func (m *mover) settle(ctx context.Context, batch []*moving, errs map[*kgo.Record]error) error {
	var first error
	var last []*kgo.Record // of each lane
	resume := map[string][]int32{}
	m.mu.Lock()
	for _, b := range batch {
		n := 0
		for ; n < len(b.out) && errs[b.out[n]] == nil; n++ {
			m.r.metrics.moved.WithLabelValues(b.from.tier.Name).Inc()
		}
		if n < len(b.out) && first == nil {
			first = fmt.Errorf("kafka: produce to %s: %w", b.out[n].Topic, errs[b.out[n]])
		}
		if m.lanes[b.lane] != b.from {
			continue // lost meanwhile: the next owner moves them again
		}
		if n > 0 && !b.lane.gone {
			last = append(last, b.records[n-1])
		}
		b.from.records, b.from.seen = b.from.records[n:], b.from.seen[n:]
		if len(b.from.records) == 0 {
			delete(m.lanes, b.lane)
			if b.lane.gone {
				continue
			}
			resume[b.lane.topic] = append(resume[b.lane.topic], b.lane.partition)
		}
	}
	m.mu.Unlock()
	if len(last) > 0 {
		if err := m.cl.CommitRecords(m.ids.Commits(ctx), last...); err != nil && first == nil {
			first = fmt.Errorf("kafka: commit group %s: %w", m.r.deps.Names.RetryGroup(), err)
		}
	}
	m.cl.ResumeFetchPartitions(resume)
	return first
}

// onward is where a due record goes: to the longest tier that fits what is left
// of its delay, or to its queue, where less than the first tier is waited for in
// the worker. One that names no queue is a dead letter.
func (m *mover) onward(rec *kgo.Record, now time.Time) *kgo.Record {
	queue := headerOf(rec, schemas.HeaderQueue)
	if !schemas.ValidQueue(queue) {
		return m.garbage(rec)
	}
	if due, ok := dueOf(rec); ok {
		if tier, ok := kafka.TierFor(due.Sub(now)); ok {
			return m.again(rec, tier)
		}
	}
	out := &kgo.Record{Topic: m.r.deps.Names.Tasks(queue), Key: rec.Key, Value: rec.Value}
	out.Headers = make([]kgo.RecordHeader, 0, len(rec.Headers))
	for _, h := range rec.Headers {
		if h.Key != schemas.HeaderQueue {
			out.Headers = append(out.Headers, h)
		}
	}
	return out
}

// again is the record for another round in a tier.
func (m *mover) again(rec *kgo.Record, tier kafka.Tier) *kgo.Record {
	return &kgo.Record{Topic: m.r.deps.Names.Retry(tier.Name), Key: rec.Key, Value: rec.Value, Headers: rec.Headers}
}

// garbage is the letter of a record that names no queue. It goes to the first
// queue of the catalog: somebody must see it, and no queue is nearer.
func (m *mover) garbage(rec *kgo.Record) *kgo.Record {
	l := dlq.From(rec, m.r.deps.Names.RetryGroup())
	l.Reason = schemas.ReasonUndecodable
	l.ErrorClass, l.Message = "retry record", "a record on "+rec.Topic+" names no queue to go back to (header "+schemas.HeaderQueue+")"
	l.Release, l.Catalog = m.r.cfg.Release, m.r.deps.Catalog.Hash
	out := dlq.Encode(l)
	out.Topic = m.r.deps.Names.DLQ(m.r.deps.Catalog.QueueNames()[0])
	m.r.metrics.garbage.Inc()
	m.r.log.Error("garbage on a delay topic became a dead letter", "topic", rec.Topic,
		"partition", rec.Partition, "offset", rec.Offset, "letter_on", out.Topic)
	return out
}

func isQueued(rec *kgo.Record) bool { return schemas.ValidQueue(headerOf(rec, schemas.HeaderQueue)) }

// dueOf reads when a record is due; ok is false if it does not say so.
func dueOf(rec *kgo.Record) (time.Time, bool) {
	ms, err := strconv.ParseInt(headerOf(rec, schemas.HeaderDue), 10, 64)
	if err != nil || ms <= 0 || !isQueued(rec) {
		return time.Time{}, false
	}
	return time.UnixMilli(ms), true
}

// headerOf returns a header's last value, as Kafka's own clients read one.
func headerOf(rec *kgo.Record, name string) string {
	for i := len(rec.Headers) - 1; i >= 0; i-- {
		if rec.Headers[i].Key == name {
			return string(rec.Headers[i].Value)
		}
	}
	return ""
}

package relay

// The delay topics: records of retry.<tier> go back to their queues when due.
// Every relay shares in it, active or standby, by a consumer group.
//
// Records of a partition leave in the order they came, because all of a tier
// wait equally long; so an offset is committed only when everything below it was
// acknowledged elsewhere. A commit for a partition just lost can therefore
// repeat records, never skip one.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
)

// How much is held in memory, and how long a dead relay's partitions wait.
const (
	movePoll      = 2000
	moveFetch     = 16 << 20
	movePartition = 1 << 20
	moveSession   = 10 * time.Second
)

// mover holds fetched records until they are due. A partition with records in
// memory is paused, so that a long delay costs neither memory nor fetches.
type mover struct {
	r     *Relay
	cl    *kgo.Client
	tiers map[string]kafka.Tier // by topic

	ids      *kafka.TopicIDs
	replaced string // a topic that this client does not read any more
	stopped  error  // a partition that a person must look after
	troubled bool   // the last poll told an error that passes

	mu    sync.Mutex
	lanes map[lane]*waiting
}

type lane struct {
	topic     string
	partition int32
	gone      bool // of a topic that was deleted: these records are nowhere else
}

// waiting are one partition's fetched records, oldest first.
type waiting struct {
	records []*kgo.Record
	seen    []time.Time // when each was fetched
	tier    kafka.Tier
}

func (r *Relay) retryTopics() []string {
	names := make([]string, len(kafka.Tiers))
	for i, tier := range kafka.Tiers {
		names[i] = r.deps.Names.Retry(tier.Name)
	}
	return names
}

// runRetries moves records until ctx ends.
func (r *Relay) runRetries(ctx context.Context) error {
	m := &mover{r: r, tiers: map[string]kafka.Tier{}, lanes: map[lane]*waiting{}}
	for _, tier := range kafka.Tiers {
		m.tiers[r.deps.Names.Retry(tier.Name)] = tier
	}
	for ctx.Err() == nil {
		if err := m.consume(ctx); err != nil {
			return err
		}
	}
	return nil
}

// consume moves records until ctx ends, or another topic has the name of a delay topic.
func (m *mover) consume(ctx context.Context) error {
	r := m.r
	m.ids, m.replaced, m.stopped = kafka.NewTopicIDs(r.deps.Names.RetryGroup()), "", nil
	opts := append(append(append(m.ids.Opts(), kgo.FetchMaxWait(time.Second)), r.deps.Kafka...), // five of them until the client tells of an unknown id
		kgo.ConsumerGroup(r.deps.Names.RetryGroup()),
		kgo.ConsumeTopics(r.retryTopics()...),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), // a new group begins at the beginning
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),       // nothing is ever skipped silently
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(moveSession),
		kgo.FetchMaxBytes(moveFetch),
		kgo.FetchMaxPartitionBytes(movePartition),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.RecordDeliveryTimeout(r.cfg.Delivery),
		kgo.UnknownTopicRetries(1), // a queue without a topic must not hold up the others
		kafka.BatchLimit(r.deps.Names, kafka.MaxTaskRecord),
		kgo.OnPartitionsAssigned(m.assigned),
		kgo.OnPartitionsRevoked(m.lost),
		kgo.OnPartitionsLost(m.lost),
	)
	var err error
	if m.cl, err = kgo.NewClient(opts...); err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer m.cl.Close()
	return m.run(ctx)
}

func (m *mover) run(ctx context.Context) error {
	pause := newBackoff(50*time.Millisecond, 5*time.Second)
	for ctx.Err() == nil {
		m.fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if m.replaced != "" {
			m.r.log.Warn("a delay topic was deleted and made again: reads the new one from its beginning; what is in hand of the old one still goes back", "topic", m.replaced)
			m.keep(m.replaced)
			return nil
		}
		if err := m.moveDue(ctx); err != nil && ctx.Err() == nil {
			m.r.setRetries(err)
			m.r.log.Warn("cannot move retries back, trying again", "cause", err)
			sleep(ctx, pause.next())
			continue
		}
		pause.reset()
	}
	return nil
}

// fetch waits for records, or until one that is held is due.
func (m *mover) fetch(ctx context.Context) {
	wait := time.Minute
	if at, ok := m.nextDue(); ok {
		wait = min(wait, max(0, time.Until(at)))
	}
	if m.ids.Doubts() {
		sleep(ctx, 100*time.Millisecond) // the client says the same again at once
		wait = min(wait, time.Second)
	}
	if m.troubled {
		wait = min(wait, time.Second) // so that the end of the trouble is told too
	}
	pctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fetches := m.cl.PollRecords(pctx, movePoll)
	replaced, unknown := m.ids.Fetched(ctx, fetches)
	m.note(fetches.Errors())
	for _, topic := range unknown {
		m.r.log.Warn("cannot fetch retries, trying again", "topic", topic, "cause", kerr.UnknownTopicID)
	}
	if m.replaced = replaced; replaced != "" {
		return
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	paused := map[string][]int32{}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		at := lane{topic: p.Topic, partition: p.Partition}
		w := m.lanes[at]
		if w == nil {
			w = &waiting{tier: m.tiers[p.Topic]}
			m.lanes[at] = w
		}
		for _, rec := range p.Records {
			w.records, w.seen = append(w.records, rec), append(w.seen, now)
		}
		paused[p.Topic] = append(paused[p.Topic], p.Partition)
	})
	if len(paused) > 0 {
		m.cl.PauseFetchPartitions(paused)
	}
}

// note tells what stops partitions. Out of range means that records were
// deleted which nobody moved: that partition stays stopped until a person looks.
func (m *mover) note(errs []kgo.FetchError) {
	var now error
	for _, e := range errs {
		switch {
		case errors.Is(e.Err, context.DeadlineExceeded), errors.Is(e.Err, context.Canceled), kgo.IsRetryableBrokerErr(e.Err):
		case errors.Is(e.Err, kerr.UnknownTopicID):
			now = fmt.Errorf("kafka: fetch %s: %w", e.Topic, e.Err) // logged once
		case errors.Is(e.Err, kerr.OffsetOutOfRange):
			m.r.metrics.outOfRange.Inc()
			m.stopped = fmt.Errorf("kafka: %s partition %d: the committed offset of group %s is out of range, records were deleted that nobody moved: set the group's offset by hand, then restart the relay: %w",
				e.Topic, e.Partition, m.r.deps.Names.RetryGroup(), e.Err)
			m.r.log.Error("a delay topic has stopped", "cause", m.stopped)
		default:
			now = fmt.Errorf("kafka: fetch %s: %w", e.Topic, e.Err)
			m.r.log.Warn("cannot fetch retries, trying again", "partition", e.Partition, "cause", now)
		}
	}
	m.troubled = now != nil
	m.r.setRetries(errors.Join(m.stopped, now))
}

// keep holds on to what was fetched of a topic that is no more.
func (m *mover) keep(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, w := range m.lanes {
		if at.topic != topic || at.gone {
			continue
		}
		delete(m.lanes, at)
		at.gone = true
		if before := m.lanes[at]; before != nil {
			w.records, w.seen = append(before.records, w.records...), append(before.seen, w.seen...)
		}
		m.lanes[at] = w
	}
}

// nextDue is when the first held record is due.
func (m *mover) nextDue() (at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.lanes {
		if len(w.records) == 0 {
			continue
		}
		if d := w.ready(0); !ok || d.Before(at) {
			at, ok = d, true
		}
	}
	return at, ok
}

// ready is when record i may move on: when the tier's delay has passed since it
// was appended, or it is due, whichever is first. A timestamp ahead of this
// clock counts as now: one skewed producer must not hold up the others.
func (w *waiting) ready(i int) time.Time {
	at := w.records[i].Timestamp
	if w.seen[i].Before(at) {
		at = w.seen[i]
	}
	at = at.Add(w.tier.Delay)
	due, ok := dueOf(w.records[i])
	if !ok {
		return time.Time{} // garbage, or due at once
	}
	if due.Before(at) {
		return due
	}
	return at
}

// assigned may get back a partition that was paused when it was lost.
func (m *mover) assigned(_ context.Context, cl *kgo.Client, got map[string][]int32) {
	cl.ResumeFetchPartitions(got)
}

// lost forgets records whose partition another relay has now.
func (m *mover) lost(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, partitions := range gone {
		for _, p := range partitions {
			delete(m.lanes, lane{topic: topic, partition: p})
		}
	}
}

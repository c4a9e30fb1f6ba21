package worker

// Stage fetch: Kafka → the assignment's tracker → admit.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/exit"
)

// perPoll bounds what one poll hands over, so that the first records of a large
// fetch need not wait for the last.
const perPoll = 2000

// fetchBytes bounds what one broker sends at once, and with it what the client
// keeps beside what the gate counts: one such answer a broker. It is as Kafka
// stores it; small tasks that compress well take twenty times that in memory.
const fetchBytes = 1 << 20

// arrival is what one poll brought for one partition.
type arrival struct {
	asg    *assignment
	recs   []*kgo.Record
	skipTo int64 // > 0: what lies below cannot be read and is taken care of
}

// intake is one queue's consumer group and its assigned partitions, or its share
// group (shared.go), which has none.
type intake struct {
	queue string
	topic string
	group string
	cl    *kgo.Client
	gate  gate
	share *shareGroup // delivery: shared; nil = partitions are assigned

	mu        sync.Mutex
	assigned  map[int32]*assignment
	found     map[int32]committed // from the last fetch of offsets, until the first poll
	halted    map[int32]string    // partition → why nothing of it is fetched
	successor bool                // of a place in the group that Kafka still counts, until the first assignment
	unknown   spell               // in which Kafka does not know the topic's id; the poller's own
	commits   sync.Mutex          // held from gathering offsets to the broker's answer
}

// clientOpts are those of a queue's consumer group.
func (w *Worker) clientOpts(in *intake) []kgo.Opt {
	if in.share != nil {
		return w.sharedOpts(in)
	}
	rebalance := max(w.cfg.Grace+15*time.Second, 45*time.Second)
	return append(append([]kgo.Opt(nil), w.deps.Kafka...),
		kgo.ConsumerGroup(in.group),
		kgo.ConsumeTopics(in.topic),
		kgo.InstanceID(w.cfg.Instance),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(w.cfg.SessionTimeout),
		kgo.HeartbeatInterval(w.heartbeatEvery()),
		kgo.RebalanceTimeout(rebalance),
		kgo.DisableAutoCommit(),
		// A group that has no commit begins at the beginning. An offset that the
		// log no longer has is never replaced by another: see halt.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchBytes),
		// From a poll's return until its records are with their trackers, no
		// partition may change hands: records of an earlier assignment must not
		// reach the tracker of a later one.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnOffsetsFetched(in.onOffsetsFetched),
		kgo.AdjustFetchOffsetsFn(w.startExactly(in)),
		kgo.OnPartitionsAssigned(func(_ context.Context, cl *kgo.Client, m map[string][]int32) {
			w.assign(in, m[in.topic])
			in.settleIn(cl)
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, m map[string][]int32) { w.revoke(ctx, in, m[in.topic]) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { w.lose(in, m[in.topic]) }),
	)
}

// poll fetches until ctx ends or the client can go on no more.
func (w *Worker) poll(ctx context.Context, in *intake) error {
	if in.share != nil {
		return w.pollShared(ctx, in)
	}
	for {
		room, err := in.gate.wait(ctx)
		if err != nil {
			return nil // asked to stop
		}
		fetches := in.cl.PollRecords(ctx, min(room, perPoll))
		if ctx.Err() == nil {
			err = w.handOver(ctx, in, fetches)
		}
		in.cl.AllowRebalance()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// handOver gives a poll's records to their assignments. A returned error ends
// the worker; what concerns one partition does not.
func (w *Worker) handOver(ctx context.Context, in *intake, fetches kgo.Fetches) error {
	var fatal error
	atOnce := false // an error comes again at once
	for _, f := range fetches {
		for _, t := range f.Topics {
			for _, fp := range t.Partitions {
				asg, err := w.handOverPartition(in, t.TopicID, &fp)
				if err != nil {
					fatal = errors.Join(fatal, err)
				} else if fp.Err != nil {
					again, err := w.fetchError(ctx, in, asg, fp.Partition, fp.Err)
					fatal, atOnce = errors.Join(fatal, err), atOnce || again
				}
			}
		}
	}
	if atOnce && fatal == nil {
		pause(ctx, fetchPause)
	}
	return fatal
}

// handOverPartition returns the partition's assignment, nil if it is not ours
// any more: its next owner fetches it again.
func (w *Worker) handOverPartition(in *intake, topicID [16]byte, fp *kgo.FetchPartition) (*assignment, error) {
	in.mu.Lock()
	asg := in.assigned[fp.Partition]
	in.mu.Unlock()
	if asg == nil || fp.Partition < 0 {
		return nil, nil
	}
	if topicID == ([16]byte{}) && fp.Err != nil && !isUnreadable(fp.Err) {
		return asg, nil // the client's own error, not of a fetch: it knows no id
	}
	if err := w.track(in, asg, topicID); err != nil {
		return asg, w.replaced(in, err)
	}
	if n := len(fp.Records); n > 0 {
		asg.position = fp.Records[n-1].Offset + 1
		bytes := 0
		for _, r := range fp.Records {
			bytes += recordSize(r)
		}
		in.gate.add(n, bytes)
		w.p.arrived.put(arrival{asg: asg, recs: fp.Records})
	}
	return asg, nil
}

// fetchError decides what an error means. Errors that pass by themselves never
// come here: the client retries them. again says that it may come again at once.
func (w *Worker) fetchError(ctx context.Context, in *intake, asg *assignment, partition int32, err error) (again bool, fatal error) {
	var loss *kgo.ErrDataLoss
	var session *kgo.ErrGroupSession
	switch {
	case errors.Is(err, kgo.ErrClientClosed), errors.Is(err, context.Canceled):
		return false, nil
	case errors.Is(err, kerr.FencedInstanceID):
		return false, fmt.Errorf("queue %s: another process runs under the instance name %s and has taken its place: give each its own PERDURE_INSTANCE: %w", in.queue, w.cfg.Instance, err)
	case errors.Is(err, kerr.UnknownTopicID):
		return true, w.deleted(in, err)
	case errors.As(err, &session):
		w.log.Warn("left the consumer group, joining again", "queue", in.queue, "err", err)
		return false, nil
	case asg == nil:
		w.log.Warn("fetch failed", "queue", in.queue, "partition", partition, "err", err)
		return false, nil
	case errors.Is(err, kerr.OffsetOutOfRange), errors.As(err, &loss):
		w.halt(in, partition, fmt.Sprintf("Kafka no longer has the records after the committed offset (%v): they were deleted before they were run. Nothing is skipped by itself: find out what was lost, then set the group's offset", err))
		return false, nil
	case isUnreadable(err):
		if err := w.passUnreadable(ctx, asg, err); err != nil {
			w.log.Error("cannot pass an unreadable batch, trying again", "queue", in.queue, "partition", partition, "err", err)
		}
		return false, nil
	default:
		w.log.Warn("fetch failed, trying again", "queue", in.queue, "partition", partition, "err", err)
		return true, nil
	}
}

const (
	fetchPause   = 100 * time.Millisecond // after an error that comes again at once
	unknownTopic = 5 * time.Second        // a topic that has just been made is known to all brokers by then
)

// spell is a time in which something comes again and again.
type spell struct{ since, last time.Time }

// longer notes that it came, and reports whether it has been coming for longer than d;
// after a d without it a new spell begins.
func (s *spell) longer(d time.Duration, now time.Time) bool {
	if now.Sub(s.last) > d {
		s.since = now
	}
	s.last = now
	return now.Sub(s.since) > d
}

// deleted ends the worker where its topic was deleted. What has the name now, or will
// have it, is another one: positions and trackers are not about it, and the client
// fetches it no more. A new process begins at its beginning.
func (w *Worker) deleted(in *intake, err error) error {
	if !in.unknown.longer(unknownTopic, time.Now()) {
		return nil
	}
	return w.replaced(in, err)
}

// replaced is deleted, where that is certain.
func (w *Worker) replaced(in *intake, err error) error {
	in.mu.Lock()
	all := slices.Collect(maps.Keys(in.assigned))
	in.mu.Unlock()
	w.lose(in, all) // from here on no offset of theirs is committed for the topic of that name
	return exit.Restart(fmt.Errorf("queue %s: topic %s was deleted: this process ends, so that a new one reads what has its name then: %w", in.queue, in.topic, err))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// halt stops fetching a partition until the process is restarted.
func (w *Worker) halt(in *intake, partition int32, why string) {
	in.mu.Lock()
	_, known := in.halted[partition]
	in.halted[partition] = why
	in.mu.Unlock()
	if known {
		return
	}
	in.cl.PauseFetchPartitions(map[string][]int32{in.topic: {partition}})
	w.met.halted.WithLabelValues(in.queue).Inc()
	w.log.Error("partition halted", "queue", in.queue, "topic", in.topic, "partition", partition, "why", why)
}

// stepFetch shows arrived records to their trackers.
func (p *pipeline) stepFetch(time.Time) {
	for _, a := range p.arrived.take() {
		if a.asg.intake.share != nil {
			for _, r := range a.recs {
				p.takeShared(a.asg, r)
			}
			continue
		}
		if a.skipTo > 0 {
			a.asg.tracker.Skip(a.skipTo)
		}
		for _, r := range a.recs {
			if a.asg.draining || !a.asg.tracker.Deliver(r.Offset, r.LeaderEpoch) {
				a.asg.intake.gate.release(recordSize(r)) // acknowledged before a restart
				continue
			}
			p.admitNew(a.asg, r)
		}
	}
}

func recordSize(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// gate bounds the records of one queue in memory. When it is shut nothing is
// polled, and the client stops fetching once its own buffer is full.
type gate struct {
	maxRecords, maxBytes int

	mu             sync.Mutex
	records, bytes int
	lent           int           // records that wait and do not count
	opened         chan struct{} // not nil = somebody waits
}

func (g *gate) add(records, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records += records
	g.bytes += bytes
}

func (g *gate) release(bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records--
	g.bytes -= bytes
	g.open()
}

// room is how many records may be fetched; g.mu is held.
func (g *gate) room() int {
	if g.bytes >= g.maxBytes {
		return 0
	}
	return max(g.maxRecords-(g.records-g.lent), 0)
}

// lend lets one record not count, if fewer than most do not.
func (g *gate) lend(most int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lent >= most {
		return false
	}
	g.lent++
	g.open()
	return true
}

func (g *gate) takeBack() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lent--
}

// open wakes who waits, if there is room; g.mu is held.
func (g *gate) open() {
	if g.opened != nil && g.room() > 0 {
		close(g.opened)
		g.opened = nil
	}
}

// wait returns how many records may be fetched, once it is at least one.
func (g *gate) wait(ctx context.Context) (int, error) {
	for {
		g.mu.Lock()
		room := g.room()
		if room > 0 {
			g.mu.Unlock()
			return room, nil
		}
		if g.opened == nil {
			g.opened = make(chan struct{})
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

package foreign

// A topic, read once from its beginning to where it ended when the reading
// began. Records are asked for partition by partition, because only an answer
// itself says how far it goes: behind aborted or compacted records nothing may
// come that a consumer would return.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Errors of a Cluster.
var (
	ErrNoTopic = errors.New("there is no such topic")
	ErrGone    = errors.New("the record is not there any more")
	ErrUnknown = errors.New("the letter does not say where its record lay")
	ErrDenied  = errors.New("this user may not read it")
)

const (
	readers   = 4       // partitions read at once
	fetchSize = 1 << 20 // bytes of a partition in an answer, unless one batch is larger
	patience  = 30 * time.Second
)

// Cluster reads topics of one Kafka. Close it. Safe for concurrent use.
type Cluster struct {
	cl  *kgo.Client
	adm *kadm.Client
}

// Connect makes a Cluster from a client's options: brokers, TLS, SASL, client id.
// It does not dial yet.
func Connect(opts []kgo.Opt) (*Cluster, error) {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return &Cluster{cl: cl, adm: kadm.NewClient(cl)}, nil
}

// Close ends the connections.
func (c *Cluster) Close() { c.cl.Close() }

// ID is the cluster's own id, "" if it does not tell.
func (c *Cluster) ID(ctx context.Context) (string, error) {
	m, err := c.adm.BrokerMetadata(ctx)
	return m.Cluster, err
}

// Extent is what there is to read of a topic.
type Extent struct {
	ID         string // of the topic; one that is made anew has another. "" = an old broker
	Partitions int
	Offsets    int64 // from the beginning, or the time asked for, to the end
	// Undecided offsets lie behind a transaction that was open: they are not read.
	Undecided int64
}

// Progress counts while a topic is read; safe for concurrent use.
type Progress struct {
	Offsets atomic.Int64 // passed, of Extent.Offsets
	Records atomic.Int64 // given to each
}

type span struct {
	partition int32
	from, to  int64
}

// Topic hands each committed record of a topic to each, which may be called by
// several goroutines at once and may not keep the record. Records older than
// since are left out (zero = none is). Reading ends where the topic ended when it
// began; begun, unless nil, is told what there is. The error is ErrNoTopic if
// there is no such topic.
func (c *Cluster) Topic(ctx context.Context, topic string, since time.Time, p *Progress, begun func(Extent), each func(*kgo.Record)) (Extent, error) {
	info, spans, x, err := c.extent(ctx, topic, since)
	if err != nil {
		return x, err
	}
	if begun != nil {
		begun(x)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, s := range spans {
		g.Go(func() error {
			return c.span(ctx, info, s, committed, func(recs []*kgo.Record, passed int64) error {
				for _, r := range recs {
					if !r.Timestamp.Before(since) {
						each(r)
						p.Records.Add(1)
					}
				}
				p.Offsets.Add(passed)
				return nil
			})
		})
	}
	return x, g.Wait()
}

func (c *Cluster) extent(ctx context.Context, topic string, since time.Time) (info kadm.TopicDetail, spans []span, x Extent, err error) {
	if info, err = c.topic(ctx, topic); err != nil {
		return info, nil, x, err
	}
	from := c.adm.ListStartOffsets
	if !since.IsZero() {
		from = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return c.adm.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topics...)
		}
	}
	starts, err1 := from(ctx, topic)
	stable, err2 := c.adm.ListCommittedOffsets(ctx, topic)
	ends, err3 := c.adm.ListEndOffsets(ctx, topic)
	if err := errors.Join(err1, err2, err3, starts.Error(), stable.Error(), ends.Error()); err != nil {
		return info, nil, x, fmt.Errorf("offsets of %s: %w", topic, err)
	}
	x.Partitions = len(info.Partitions)
	x.ID = idOf(info)
	for _, p := range info.Partitions.Numbers() {
		start, _ := starts.Lookup(topic, p)
		end, _ := stable.Lookup(topic, p)
		high, _ := ends.Lookup(topic, p)
		x.Undecided += max(high.Offset-end.Offset, 0)
		if start.Offset < end.Offset {
			spans = append(spans, span{p, start.Offset, end.Offset})
			x.Offsets += end.Offset - start.Offset
		}
	}
	return info, spans, x, nil
}

// idOf is a topic's id, "" of an old broker.
func idOf(info kadm.TopicDetail) string {
	if info.ID == (kadm.TopicID{}) {
		return ""
	}
	return info.ID.String()
}

func (c *Cluster) topic(ctx context.Context, topic string) (kadm.TopicDetail, error) {
	all, err := c.adm.ListTopicsWithInternal(ctx, topic)
	if err != nil {
		return kadm.TopicDetail{}, fmt.Errorf("topic %s: %w", topic, err)
	}
	info := all[topic]
	switch {
	case errors.Is(info.Err, kerr.UnknownTopicOrPartition), info.Err == nil && len(info.Partitions) == 0:
		return info, fmt.Errorf("topic %s: %w", topic, ErrNoTopic)
	case info.Err != nil:
		return info, fmt.Errorf("topic %s: %w", topic, info.Err)
	}
	return info, nil
}

// Kafka's isolation levels.
const (
	uncommitted int8 = 0
	committed   int8 = 1
)

// span reads a part of a partition. An error of got ends it.
func (c *Cluster) span(ctx context.Context, info kadm.TopicDetail, s span, isolation int8, got func([]*kgo.Record, int64) error) error {
	leader := info.Partitions[s.partition].Leader
	lastMoved := time.Now()
	for at := s.from; at < s.to; {
		f, next, err := c.fetch(ctx, info, leader, s.partition, at, isolation)
		switch {
		case err == nil && next > at:
			recs := f.Records
			for len(recs) > 0 && recs[len(recs)-1].Offset >= s.to {
				recs = recs[:len(recs)-1]
			}
			if err := got(recs, min(next, s.to)-at); err != nil {
				return err
			}
			at, lastMoved = next, time.Now()
			continue
		case errors.Is(err, kerr.OffsetOutOfRange):
			// Retention is faster than we are: what it deleted is no letter any more.
			// The answer itself does not say where the partition begins now.
			start, _, err := c.start(ctx, info.Topic, s.partition)
			if err != nil {
				return err
			}
			if start <= at {
				return fmt.Errorf("read %s/%d at %d: it ends before: was the topic made anew?", info.Topic, s.partition, at)
			}
			if err := got(nil, min(start, s.to)-at); err != nil {
				return err
			}
			at, lastMoved = start, time.Now()
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !kerr.IsRetriable(err) && !errors.Is(err, errAway), time.Since(lastMoved) > patience:
			if err == nil {
				err = fmt.Errorf("no answer went on for %s", patience)
			}
			return fmt.Errorf("read %s/%d at %d: %w", info.Topic, s.partition, at, err)
		case err != nil: // its leader is another, or away for now
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
			if now, err := c.topic(ctx, info.Topic); err == nil {
				leader = now.Partitions[s.partition].Leader
			}
		}
	}
	return nil
}

// start is where a partition begins now, if it is there.
func (c *Cluster) start(ctx context.Context, topic string, partition int32) (int64, bool, error) {
	starts, err := c.adm.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return 0, false, fmt.Errorf("offsets of %s: %w", topic, err)
	}
	o, is := starts.Lookup(topic, partition)
	return o.Offset, is, nil
}

// errAway is a broker that could not be asked.
var errAway = errors.New("the partition's leader does not answer")

// fetch asks a partition's leader once; next is where the answer ends. Of a
// record that is larger than max the answer holds all.
func (c *Cluster) fetch(ctx context.Context, info kadm.TopicDetail, leader, partition int32, at int64, isolation int8) (kgo.FetchPartition, int64, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = 500, 1, fetchSize, isolation
	req.SessionEpoch = -1 // no session: each request says all
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = info.Topic, info.ID
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, at, fetchSize
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, c.cl.Broker(int(leader)))
	if err != nil {
		return kgo.FetchPartition{}, at, errors.Join(errAway, err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return kgo.FetchPartition{}, at, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return kgo.FetchPartition{}, at, errAway
	}
	level := kgo.ReadUncommitted()
	if isolation == committed {
		level = kgo.ReadCommitted()
	}
	f, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: at, IsolationLevel: level, Topic: info.Topic, Partition: partition,
	}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	return f, next, f.Err
}

// Record reads one record, committed or not: ErrGone if it is not there any more or
// Kafka will never give it, ErrDenied if not to this user, ErrNoTopic if its topic
// is not there. After any other error it is worth another try.
func (c *Cluster) Record(ctx context.Context, topic string, partition int32, offset int64) (*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := c.topic(ctx, topic)
	if err != nil {
		return nil, final(info.Err, err)
	}
	p, is := info.Partitions[partition]
	if !is {
		return nil, fmt.Errorf("%s/%d at %d: %w", topic, partition, offset, ErrGone)
	}
	f, _, err := c.fetch(ctx, info, p.Leader, partition, offset, uncommitted)
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange), err == nil && (len(f.Records) == 0 || f.Records[0].Offset != offset):
		return nil, fmt.Errorf("%s/%d at %d: %w", topic, partition, offset, ErrGone)
	case err != nil:
		return nil, final(f.Err, fmt.Errorf("read %s/%d at %d: %w", topic, partition, offset, err))
	}
	return f.Records[0], nil
}

// final is an error with what Kafka said of a topic or its record, if it would say
// so again: it is denied, is no topic's name, or what lies there is broken. nil =
// it said nothing.
func final(said, err error) error {
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case said == nil, kerr.IsRetriable(said), errors.Is(err, ErrNoTopic):
		return err
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// Original reads the record that a letter is about from where it failed. Its
// errors are Record's, and ErrUnknown where the letter does not say.
func (c *Cluster) Original(ctx context.Context, l *Letter) (*kgo.Record, error) {
	if l.Origin.Topic == "" || l.Origin.Offset < 0 {
		return nil, ErrUnknown
	}
	return c.Record(ctx, l.Origin.Topic, l.Origin.Partition, l.Origin.Offset)
}

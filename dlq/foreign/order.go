package foreign

// Reading for whoever acts on what is read: in order, and to be stopped.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InOrder is Topic for one reader: partition by partition, each from its
// beginning to where it ended when the reading began. each gets some records at a
// time, and may keep them; its error ends the reading and is returned.
func (c *Cluster) InOrder(ctx context.Context, topic string, since time.Time, p *Progress, begun func(Extent) error, each func([]*kgo.Record) error) error {
	info, spans, x, err := c.extent(ctx, topic, since)
	if err != nil {
		return err
	}
	if err := begun(x); err != nil {
		return err
	}
	for _, s := range spans {
		if err := c.span(ctx, info, s, committed, func(recs []*kgo.Record, passed int64) error {
			young := recs[:0]
			for _, r := range recs {
				if !r.Timestamp.Before(since) {
					young = append(young, r)
				}
			}
			p.Offsets.Add(passed)
			p.Records.Add(int64(len(young)))
			return each(young)
		}); err != nil {
			return err
		}
	}
	return nil
}

var errEnough = errors.New("enough")

// Part is the end of a partition, from an offset on.
type Part struct {
	Topic     string
	ID        string // of the topic, when the offset was noted; "" = an old broker did not tell
	Partition int32
	From      int64
	Wait      time.Duration // how long replicas that are behind are waited for
}

// ErrBehind is a partition of which not all may be read yet.
var ErrBehind = errors.New("its leader may hold records that nobody can read before its replicas have them")

// Tail hands every record of a partition, committed or not, to each: up to where
// its leader's log ends now, or until each says enough. whole is false if some of
// what was there may have been missed, for the partition begins behind the offset,
// ends before it, is another topic's by now, or is not there at all. The error is
// ErrBehind if not all of the log could be read in time.
func (c *Cluster) Tail(ctx context.Context, p Part, each func(*kgo.Record) (enough bool)) (whole bool, err error) {
	end, is, err := c.end(ctx, p)
	if err != nil || !is || end < p.From {
		return false, err
	}
	info, is, err := c.part(ctx, p)
	if err != nil || !is {
		return false, err
	}
	err = c.span(ctx, info, span{p.Partition, p.From, end}, uncommitted, func(recs []*kgo.Record, _ int64) error {
		for _, r := range recs {
			if each(r) {
				return errEnough
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	// Asked for last: what retention took meanwhile was not read.
	start, is, err := c.start(ctx, p.Topic, p.Partition)
	if err != nil || !is || start > p.From {
		return false, err
	}
	_, is, err = c.part(ctx, p)
	return is, err
}

// part says whether it is still there.
func (c *Cluster) part(ctx context.Context, p Part) (info kadm.TopicDetail, is bool, err error) {
	info, err = c.topic(ctx, p.Topic)
	if errors.Is(err, ErrNoTopic) {
		return info, false, nil
	}
	_, is = info.Partitions[p.Partition]
	return info, is && idOf(info) == p.ID, err
}

// end is where the leader's log ends, as soon as the high watermark is there. What
// lies between the two no reader sees, and most of it stays: its leader waits for
// replicas that are in sync and do not come.
func (c *Cluster) end(ctx context.Context, p Part) (end int64, is bool, err error) {
	end = math.MaxInt64
	for began := time.Now(); ; {
		info, is, err := c.part(ctx, p)
		if err != nil || !is {
			return 0, false, err
		}
		last, err := c.logEnd(ctx, p.Topic, info.Partitions[p.Partition])
		var high int64
		if err == nil {
			// The least of the answers will do, for what is looked for was sent before the
			// first: a topic that grows is ahead of each, and a new leader may hold less.
			high, is, err = c.high(ctx, p.Topic, p.Partition)
			if last < 0 {
				last = high // all that this broker tells
			}
			end = min(end, last)
		}
		switch {
		case ctx.Err() != nil:
			return 0, false, ctx.Err()
		case err != nil && !kerr.IsRetriable(err) && !errors.Is(err, errAway):
			return 0, false, fmt.Errorf("offsets of %s/%d: %w", p.Topic, p.Partition, err)
		case err == nil && (!is || high >= end):
			return end, is, nil
		case time.Since(began) > p.Wait && err != nil:
			return 0, false, fmt.Errorf("%s/%d: %w: %w", p.Topic, p.Partition, ErrBehind, err)
		case time.Since(began) > p.Wait:
			return 0, false, fmt.Errorf("%s/%d can be read up to %d, and ends at %d: %w", p.Topic, p.Partition, high, end, ErrBehind)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// high is the high watermark: where readers end.
func (c *Cluster) high(ctx context.Context, topic string, partition int32) (int64, bool, error) {
	ends, err := c.adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	o, is := ends.Lookup(topic, partition)
	return o.Offset, is, o.Err
}

// debugging is the replica id with which Kafka answers for the log itself, not for
// what consumers may see of it.
const debugging = -2

// logEnd asks a partition's leader where its log ends; -1 = it does not know the
// question.
func (c *Cluster) logEnd(ctx context.Context, topic string, p kadm.PartitionDetail) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = debugging
	t, rp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	// With the epoch: any replica answers this, and only its leader's log counts.
	t.Topic, rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = topic, p.Partition, -1, p.LeaderEpoch
	t.Partitions = append(t.Partitions, rp)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, c.cl.Broker(int(p.Leader)))
	if err != nil {
		return 0, errors.Join(errAway, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errAway
	}
	o := &resp.Topics[0].Partitions[0]
	err = kerr.ErrorForCode(o.ErrorCode)
	if errors.Is(err, kerr.UnsupportedVersion) || errors.Is(err, kerr.InvalidRequest) || err == nil && o.Offset < 0 {
		return -1, nil
	}
	return o.Offset, err
}

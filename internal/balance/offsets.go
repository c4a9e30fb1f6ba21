package balance

// Reading Kafka's offsets: what workers have acknowledged, and how far the index is.

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/tracker"
)

type partition struct {
	topic string
	n     int32
}

// committed is what a group said of a partition.
type committed struct {
	at       int64 // -1 = nothing
	metadata string
	topicID  [16]byte
}

// look reads the offsets. The ends of the dead-letter topics are read after the
// workers' commits: the letter of an acknowledged record lies below them.
func (c *computation) look(ctx context.Context) (*world, error) {
	w := &world{began: c.life.began, letters: map[string]bool{}, dlqOf: map[string]string{}}
	if len(c.Queues) == 0 {
		w.acked = func(string, int32, int64) bool { return false }
		w.caught = func(string) bool { return false }
		return w, nil
	}
	var topics, letters []string
	for _, q := range c.Queues {
		topics, letters = append(topics, c.Names.Tasks(q)), append(letters, c.Names.DLQ(q))
		w.letters[c.Names.DLQ(q)] = true
		w.dlqOf[c.Names.Tasks(q)] = c.Names.DLQ(q)
	}
	details, err := c.Admin.ListTopics(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	all := map[partition]committed{}
	for _, q := range c.Queues {
		if err := c.commits(ctx, c.Names.WorkerGroup(q), c.Names.Tasks(q), details, all); err != nil {
			return nil, err
		}
	}
	w.acked = ackedBy(all)
	ends, err := c.Admin.ListEndOffsets(ctx, letters...)
	if err != nil {
		return nil, fmt.Errorf("list the ends of dead-letter topics: %w", err)
	}
	index := map[partition]committed{}
	for _, topic := range letters {
		if err := c.commits(ctx, c.Names.IndexGroup(c.Source), topic, details, index); err != nil {
			return nil, err
		}
	}
	w.caught = func(topic string) bool {
		for p, e := range ends[topic] {
			i, ok := index[partition{topic, p}]
			if e.Err != nil || e.Offset > 0 && (!ok || i.at < e.Offset) {
				return false
			}
		}
		return len(ends[topic]) > 0
	}
	return w, nil
}

func (c *computation) commits(ctx context.Context, group, topic string, details kadm.TopicDetails, into map[partition]committed) error {
	if share := c.Shared[topic]; share != "" {
		return c.progress(ctx, share, topic, into)
	}
	offsets, err := kafka.Committed(ctx, c.Admin, group, topic)
	if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("committed offsets of %s: %w", group, err)
	}
	var bad error
	offsets.Each(func(o kadm.OffsetResponse) {
		switch {
		case o.Topic != topic, errors.Is(o.Err, kerr.UnknownTopicOrPartition):
		case o.Err != nil:
			bad = fmt.Errorf("committed offset of %s, %s/%d: %w", group, o.Topic, o.Partition, o.Err)
		default:
			into[partition{o.Topic, o.Partition}] = committed{o.At, o.Metadata, details[o.Topic].ID}
		}
	})
	return bad
}

// progress is commits for a shared queue. A record above the share group's start
// may be acknowledged though it is not known here to be: whoever asks for a task
// finds it queued for a little longer, never lost too soon.
func (c *computation) progress(ctx context.Context, group, topic string, into map[partition]committed) error {
	all, err := kafka.ShareProgress(ctx, c.Admin, group, topic)
	if err != nil {
		return err
	}
	for p, at := range all {
		into[partition{topic, p}] = committed{at: at.Below}
	}
	return nil
}

// ackedBy says whether a record is acknowledged: below the low watermark, or in
// the commit's metadata. It asks the tracker as the partition's next owner would.
func ackedBy(all map[partition]committed) func(string, int32, int64) bool {
	return func(topic string, p int32, offset int64) bool {
		o, ok := all[partition{topic, p}]
		if !ok || o.at < 0 {
			return false
		}
		if offset < o.at {
			return true
		}
		if o.metadata == "" {
			return false
		}
		t, err := tracker.New(o.at, o.metadata, o.topicID)
		return err == nil && !t.Deliver(offset, -1)
	}
}

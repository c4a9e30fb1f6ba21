package balance

// Searching the topics themselves: the last place where a task can be.

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// maxSearched bounds what is searched for; where more seems lost, something is
// wrong at large, and a search would only take long.
const maxSearched = 100_000

// search looks for records of the suspects that nobody has acknowledged: a retry
// whose claim was lost is found on a delay topic, or back on its queue's.
func (c *computation) search(ctx context.Context) error {
	if len(c.suspect) == 0 || len(c.suspect) > maxSearched || len(c.Queues) == 0 {
		return nil
	}
	missing := make(map[string]*task, len(c.suspect))
	for _, t := range c.suspect {
		missing[t.id(c.Source)] = t
	}
	topics := map[string]from{}
	for _, tier := range kafka.Tiers {
		topics[c.Names.Retry(tier.Name)] = from{group: c.Names.RetryGroup()}
	}
	for _, q := range c.Queues {
		topics[c.Names.Tasks(q)] = from{group: c.Names.WorkerGroup(q)}
	}
	w, err := c.look(ctx)
	if err != nil {
		return err
	}
	err = c.consume(ctx, topics, func(r *kgo.Record) bool {
		for _, h := range r.Headers {
			if h.Key != schemas.HeaderID || w.acked(r.Topic, r.Partition, r.Offset) {
				continue
			}
			if t := missing[string(h.Value)]; t != nil {
				delete(missing, string(h.Value))
				where := "queued"
				if w.dlqOf[r.Topic] == "" {
					where = "retrying"
				}
				c.report.count(wait(where))
			}
		}
		return len(missing) > 0
	})
	if err != nil {
		return fmt.Errorf("search the topics for %d tasks: %w", len(missing), err)
	}
	left := c.suspect[:0]
	for _, t := range c.suspect {
		if missing[t.id(c.Source)] != nil {
			left = append(left, t)
		}
	}
	c.suspect = left
	return nil
}

// from says where reading a topic begins: at what group has committed, or at
// the topic's start.
type from struct{ group string }

// consume reads topics to the ends that they have now, until each returns false.
// Topics that do not exist have no records.
func (c *computation) consume(ctx context.Context, topics map[string]from, each func(*kgo.Record) bool) error {
	names := make([]string, 0, len(topics))
	for name := range topics {
		names = append(names, name)
	}
	starts, err := c.Admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return err
	}
	ends, err := c.Admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return err
	}
	at := map[string]map[int32]kgo.Offset{}
	left := map[partition]int64{}
	for topic, f := range topics {
		known := map[partition]committed{}
		if f.group != "" {
			if err := c.commits(ctx, f.group, topic, nil, known); err != nil {
				return err
			}
		}
		for p, end := range ends[topic] {
			start := starts[topic][p]
			if errors.Is(end.Err, kerr.UnknownTopicOrPartition) {
				continue
			}
			if err := errors.Join(end.Err, start.Err); err != nil {
				return fmt.Errorf("offsets of %s/%d: %w", topic, p, err)
			}
			begin := start.Offset
			if o, ok := known[partition{topic, p}]; ok {
				begin = max(begin, o.at)
			}
			if begin >= end.Offset {
				continue
			}
			if at[topic] == nil {
				at[topic] = map[int32]kgo.Offset{}
			}
			at[topic][p] = kgo.NewOffset().At(begin)
			left[partition{topic, p}] = end.Offset
		}
	}
	if len(left) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), c.Kafka...), kgo.ConsumePartitions(at), kgo.KeepControlRecords())...)
	if err != nil {
		return err
	}
	defer cl.Close()
	return drain(ctx, cl, left, each)
}

// drain polls until every partition has reached its end.
func drain(ctx context.Context, cl *kgo.Client, left map[partition]int64, each func(*kgo.Record) bool) error {
	for len(left) > 0 {
		fetches := cl.PollRecords(ctx, 10_000)
		if err := fetches.Err(); err != nil {
			return err
		}
		more := true
		fetches.EachRecord(func(r *kgo.Record) {
			if more && !r.Attrs.IsControl() {
				more = each(r)
			}
			if p := (partition{r.Topic, r.Partition}); r.Offset+1 >= left[p] {
				delete(left, p)
			}
		})
		if !more {
			return nil
		}
	}
	return nil
}

package kafka

// Which topics a group's consumer reads. One that was deleted and made again under its
// name is another: the client reads nothing of it, and no offset of the first counts.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/tracker"
)

// unknownID is how long a topic's id may be unknown to brokers until they are asked
// which it is now: one that has just been made is soon known to all of them.
const unknownID = time.Second

// TopicIDs writes the topic's id into a consumer's commits, and drops offsets that were
// committed for another topic of the name. It is of one client; its methods are safe
// for concurrent use. Brokers that have no ids (before Kafka 3.1) leave it nothing to do.
type TopicIDs struct {
	group string
	mu    sync.Mutex
	cl    *kgo.Client
	read  map[string]kadm.TopicID           // of which records are fetched
	found map[string]map[int32]kadm.TopicID // for which offsets were committed, until the partition is fetched
	doubt map[string]time.Time              // brokers do not know the id; asked again when
}

// NewTopicIDs returns the TopicIDs of a group's client that is made with its Opts.
func NewTopicIDs(group string) *TopicIDs {
	return &TopicIDs{group: group, read: map[string]kadm.TopicID{}, found: map[string]map[int32]kadm.TopicID{}, doubt: map[string]time.Time{}}
}

// Opts go to the client.
func (t *TopicIDs) Opts() []kgo.Opt {
	return []kgo.Opt{kgo.OnOffsetsFetched(t.offsetsFetched), kgo.AdjustFetchOffsetsFn(t.dropForeign)}
}

func (t *TopicIDs) offsetsFetched(_ context.Context, cl *kgo.Client, _ *kmsg.OffsetFetchResponse) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cl = cl
	return nil
}

// dropForeign lets partitions begin at the beginning whose offset is of another topic.
// An error makes the client ask again.
func (t *TopicIDs) dropForeign(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	t.mu.Lock()
	cl := t.cl
	t.mu.Unlock()
	all, err := Committed(ctx, kadm.NewClient(cl), t.group, slices.Collect(maps.Keys(offsets))...)
	if err != nil {
		return nil, fmt.Errorf("look of which topics the offsets of group %s are: %w", t.group, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for topic, partitions := range offsets {
		for partition := range partitions {
			o, ok := all.Lookup(topic, partition)
			if !ok || o.Err != nil {
				continue
			}
			if o.At < 0 {
				partitions[partition] = kgo.NewOffset().AtStart()
				delete(t.found[topic], partition)
			} else if id, ok := tracker.TopicID(o.Metadata); ok {
				if t.found[topic] == nil {
					t.found[topic] = map[int32]kadm.TopicID{}
				}
				t.found[topic][partition] = id
			}
		}
	}
	return offsets, nil
}

// Fetched is shown every poll. replaced is a topic that the client does not read any more,
// because another has its name: a new client does; what was fetched of it is not to be
// committed. "" = none. unknown are topics that brokers did not know, told of once.
func (t *TopicIDs) Fetched(ctx context.Context, fetches kgo.Fetches) (replaced string, unknown []string) {
	now := time.Now()
	t.mu.Lock()
	for _, f := range fetches {
		for _, topic := range f.Topics {
			for i := range topic.Partitions {
				p := &topic.Partitions[i]
				if errors.Is(p.Err, kerr.UnknownTopicID) {
					if _, known := t.doubt[topic.Topic]; !known {
						t.doubt[topic.Topic] = now.Add(unknownID)
						unknown = append(unknown, topic.Topic)
					}
					continue
				}
				if topic.TopicID == [16]byte{} {
					continue // the client's own error, not of a fetch
				}
				t.read[topic.Topic] = topic.TopicID
				if id, ok := t.found[topic.Topic][p.Partition]; ok && id != topic.TopicID {
					replaced = topic.Topic // a broker told of the old one still when the offsets were fetched
				}
				delete(t.found[topic.Topic], p.Partition)
			}
		}
	}
	var ask []string
	for topic, at := range t.doubt {
		if now.After(at) {
			ask = append(ask, topic)
		}
	}
	cl := t.cl
	t.mu.Unlock()
	if replaced != "" || len(ask) == 0 || cl == nil {
		return replaced, unknown
	}
	actx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	details, err := kadm.NewClient(cl).ListTopics(actx, ask...)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, topic := range ask {
		d := details[topic]
		switch {
		case err != nil, d.Err != nil, d.ID == kadm.TopicID{}: // gone, and not made again yet
			t.doubt[topic] = time.Now().Add(unknownID)
		case d.ID == t.read[topic]:
			delete(t.doubt, topic)
		default:
			replaced = topic
		}
	}
	return replaced, unknown
}

// Doubts reports whether a poll should come back soon, with or without records.
func (t *TopicIDs) Doubts() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.doubt) > 0
}

// Commits makes commits under ctx say which topics their offsets are of.
func (t *TopicIDs) Commits(ctx context.Context) context.Context {
	return kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i := range req.Topics {
			topic := &req.Topics[i]
			id, ok := t.read[topic.Topic]
			if !ok {
				continue
			}
			for j := range topic.Partitions {
				metadata := tracker.OfTopic(id, topic.Partitions[j].Offset)
				topic.Partitions[j].Metadata = &metadata
			}
		}
		return nil
	})
}

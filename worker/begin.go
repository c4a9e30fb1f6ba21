package worker

// Where a partition that is assigned begins: at the group's offset, at the
// beginning without one, and at the beginning where the offset is not of this topic.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/tracker"
)

// committed is what stands in the group for a partition.
type committed struct {
	offset   int64 // -1 = nothing
	metadata string
}

// onOffsetsFetched keeps the metadata beside the committed offsets for the
// trackers. It runs after assign, and before any record of these partitions
// can be polled.
func (in *intake) onOffsetsFetched(_ context.Context, cl *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	note := func(partition int32, code int16, offset int64, metadata *string) {
		if code != 0 {
			return
		}
		c := committed{offset: offset}
		if metadata != nil {
			c.metadata = *metadata
		}
		in.found[partition] = c
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				note(p.Partition, p.ErrorCode, p.Offset, p.Metadata)
			}
		}
	}
	for partition := range in.found {
		asg := in.assigned[partition]
		if asg == nil || asg.tracker != nil {
			delete(in.found, partition)
		}
	}
	return nil
}

// startExactly decides where the partitions begin of which the offsets were just
// fetched. "At the beginning" is replaced by the offset that this is: the client can
// be set past an unreadable batch only where it knows where it is.
func (w *Worker) startExactly(in *intake) func(context.Context, map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	return func(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
		w.dropForeign(ctx, in, offsets[in.topic])
		var unset []int32
		for partition, o := range offsets[in.topic] {
			if o.EpochOffset().Offset < 0 {
				unset = append(unset, partition)
			}
		}
		if len(unset) == 0 {
			return offsets, nil
		}
		starts, err := kadm.NewClient(w.producer).ListStartOffsets(ctx, in.topic)
		if err != nil {
			w.log.Warn("cannot ask where partitions begin; the client finds it by itself", "queue", in.queue, "err", err)
			return offsets, nil
		}
		for _, partition := range unset {
			if o, ok := starts.Lookup(in.topic, partition); ok && o.Err == nil {
				offsets[in.topic][partition] = kgo.NewOffset().At(o.Offset)
			}
		}
		return offsets, nil
	}
}

// dropForeign forgets offsets that were committed for another topic of this name. A
// commit names its topic before Kafka 4.1, and whoever had not noticed that the topic
// was deleted and made again left the old one's offset for the new one. If Kafka
// cannot be asked, or answers with the old topic still, track finds out.
func (w *Worker) dropForeign(ctx context.Context, in *intake, offsets map[int32]kgo.Offset) {
	ids := map[int32]kadm.TopicID{}
	in.mu.Lock()
	for partition := range offsets {
		if id, ok := tracker.TopicID(in.found[partition].metadata); ok {
			ids[partition] = id
		}
	}
	in.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	topics, err := kadm.NewClient(w.producer).ListTopics(ctx, in.topic)
	now := topics[in.topic]
	if err != nil || now.Err != nil || now.ID == (kadm.TopicID{}) {
		return
	}
	var foreign []int32
	in.mu.Lock()
	for partition, id := range ids {
		if id != now.ID {
			in.found[partition] = committed{offset: -1}
			offsets[partition] = kgo.NewOffset().AtStart()
			foreign = append(foreign, partition)
		}
	}
	in.mu.Unlock()
	if len(foreign) > 0 {
		w.log.Warn("the group's offsets are of another topic of this name, of one that was deleted or of another cluster: beginning at the beginning",
			"queue", in.queue, "topic", in.topic, "partitions", foreign)
	}
}

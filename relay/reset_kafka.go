package relay

// The highest id of a source that Kafka has. perdure.control tells it with a
// lag; what came since is read from the topics themselves.

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// reach is how far Kafka's records of a source go.
type reach struct {
	seq        int64
	generation int
}

func (h *reach) note(generation int, seq int64) {
	h.seq, h.generation = max(h.seq, seq), max(h.generation, generation)
}

// controlSlack covers clocks of relays that took over from one another.
const controlSlack = time.Minute

// highest reads every record of task and dead-letter topics that is younger than
// what known says, or all of them where it is nil.
func (r *Relay) highest(ctx context.Context, adm *kadm.Client, known *relayed) (h reach, err error) {
	since := int64(0)
	if known != nil {
		h.note(known.Generation, known.Seq)
		since = known.at.Add(-controlSlack).UnixMilli()
	}
	var names []string
	for _, q := range r.deps.Catalog.QueueNames() {
		names = append(names, r.deps.Names.Tasks(q), r.deps.Names.DLQ(q))
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err != nil {
		return h, fmt.Errorf("kafka: ask where topics end: %w", err)
	}
	from, err := adm.ListOffsetsAfterMilli(ctx, since, names...)
	if err != nil {
		return h, fmt.Errorf("kafka: ask for offsets by time: %w", err)
	}
	left := map[string]map[int32]int64{} // ends of what must be read
	begin := map[string]map[int32]kgo.Offset{}
	ends.Each(func(e kadm.ListedOffset) {
		f, ok := from.Lookup(e.Topic, e.Partition)
		if !ok || e.Err != nil || f.Err != nil || f.Offset < 0 || f.Offset >= e.Offset {
			return
		}
		if left[e.Topic] == nil {
			left[e.Topic], begin[e.Topic] = map[int32]int64{}, map[int32]kgo.Offset{}
		}
		left[e.Topic][e.Partition] = e.Offset
		begin[e.Topic][e.Partition] = kgo.NewOffset().At(f.Offset)
	})
	for _, o := range []kadm.ListedOffsets{ends, from} {
		if err := o.Error(); err != nil {
			return h, fmt.Errorf("kafka: ask for the ends of task topics (run `perdure topics plan`): %w", err)
		}
	}
	err = r.scan(ctx, begin, left, &h)
	return h, err
}

// scan reads until every partition's end and notes the ids of this source.
func (r *Relay) scan(ctx context.Context, begin map[string]map[int32]kgo.Offset, left map[string]map[int32]int64, h *reach) error {
	n := 0
	for _, partitions := range left {
		n += len(partitions)
	}
	if n == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, r.deps.Kafka...), kgo.ConsumePartitions(begin), kgo.KeepControlRecords())...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer cl.Close()
	for n > 0 {
		wait, cancel := context.WithTimeout(ctx, scanPatience)
		fetches := cl.PollFetches(wait)
		err := fetches.Err()
		cancel()
		if err != nil {
			return fmt.Errorf("kafka: read what came after the last id in %s: %w", r.deps.Names.Control(), err)
		}
		for rec := range fetches.RecordsAll() {
			end, ok := left[rec.Topic][rec.Partition]
			if !ok {
				continue // read to its end
			}
			if rec.Offset+1 >= end {
				delete(left[rec.Topic], rec.Partition)
				n--
			}
			id, err := schemas.ParseID(headerOf(rec, schemas.HeaderID))
			if err == nil && id.Source == r.cfg.Source {
				h.note(id.Generation, id.Seq)
			}
		}
	}
	return nil
}

// scanPatience is how long Kafka may be silent.
const scanPatience = 30 * time.Second

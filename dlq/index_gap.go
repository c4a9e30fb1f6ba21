package dlq

// A gap: letters that Kafka deleted before the index had read them.

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// checkGap looks, once at start, whether retention overtook the index while no
// replayer ran. Nothing brings such letters back, so the index goes on from
// what is left; but nobody shall believe that it is whole.
func (x *Index) checkGap(ctx context.Context, cl *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	adm := kadm.NewClient(cl)
	committed, err := adm.FetchOffsets(ctx, x.group())
	if errors.Is(err, kerr.GroupIDNotFound) {
		return // the first start
	}
	if err != nil {
		x.log.Warn("dlq index: cannot see whether letters were deleted unread", "err", err)
		return
	}
	starts, err := adm.ListStartOffsets(ctx, x.topics()...)
	if err != nil {
		x.log.Warn("dlq index: cannot see whether letters were deleted unread", "err", err)
		return
	}
	committed.Each(func(o kadm.OffsetResponse) {
		start, ok := starts.Lookup(o.Topic, o.Partition)
		if !ok || start.Err != nil || o.Err != nil || o.At < 0 || start.Offset <= o.At {
			return
		}
		x.metrics.gaps.Add(float64(start.Offset - o.At))
		x.log.Error("dlq index: records were deleted by retention before they were indexed; the replayer was away longer than dlq_retention",
			"topic", o.Topic, "partition", o.Partition, "records", start.Offset-o.At, "from", o.At)
	})
}

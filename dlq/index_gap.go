package dlq

// A gap: letters that Kafka deleted before the index had read them.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// isGap reports whether the log no longer has what was to be read next.
func isGap(err error) bool {
	var loss *kgo.ErrDataLoss
	return errors.Is(err, kerr.OffsetOutOfRange) || errors.As(err, &loss)
}

// passGaps goes on where the logs of partitions begin now. Nothing brings back what
// retention took while no index ran, or none could write to Postgres; but nobody
// shall believe that the index is whole. The caller blocks rebalances.
func (x *Index) passGaps(ctx context.Context, cl *kgo.Client, at map[string][]int32) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	topics := make([]string, 0, len(at))
	for t := range at {
		topics = append(topics, t)
	}
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return fmt.Errorf("list where logs begin: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return fmt.Errorf("list where logs end: %w", err)
	}
	committed, uncommitted := cl.CommittedOffsets(), cl.UncommittedOffsets()
	to := map[string]map[int32]kgo.EpochOffset{}
	var failed error
	for t, ps := range at {
		for _, p := range ps {
			start, known := starts.Lookup(t, p)
			end, ended := ends.Lookup(t, p)
			from, begun := uncommitted[t][p] // written, and their commit failed
			if !begun {
				from, begun = committed[t][p]
				begun = begun && from.Offset >= 0
			}
			if !known || !ended || start.Err != nil || end.Err != nil {
				failed = errors.Join(failed, fmt.Errorf("list offsets of %s partition %d: %w", t, p, errors.Join(start.Err, end.Err)))
				continue
			}
			if begun && start.Offset <= from.Offset && from.Offset <= end.Offset {
				continue // the log was truncated, and the client has found its place
			}
			if to[t] == nil {
				to[t] = map[int32]kgo.EpochOffset{}
			}
			to[t][p] = kgo.EpochOffset{Epoch: -1, Offset: start.Offset}
			if !begun {
				continue // nothing of it was read, so nothing is missed
			}
			if lost := start.Offset - from.Offset; lost > 0 {
				x.metrics.gaps.Add(float64(lost))
				x.log.Error("dlq index: records were deleted by retention before they were indexed: no index ran, or none could write, for longer than dlq_retention",
					"topic", t, "partition", p, "records", lost, "from", from.Offset)
				continue
			}
			x.log.Error("dlq index: the log ends before what was read of it: it lost records; reading it again from where it begins",
				"topic", t, "partition", p, "from", from.Offset, "end", end.Offset)
		}
	}
	if len(to) == 0 {
		return failed
	}
	cl.SetOffsets(to)
	var uncertain error
	cl.CommitOffsetsSync(ctx, to, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) {
		uncertain = err
	})
	if uncertain != nil {
		x.log.Warn("dlq index: cannot commit where it goes on; the next start says again what was lost", "err", uncertain)
	}
	return failed
}

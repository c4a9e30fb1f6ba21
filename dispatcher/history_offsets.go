package dispatcher

// Committed offsets, from Kafka.

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/internal/kafka"
)

// KafkaOffsets is HistoryOffsets over a Kafka client.
type KafkaOffsets struct {
	Admin  *kadm.Client
	Shared map[string]string // kafka.ShareGroups of the catalog; nil = none
}

// Committed implements HistoryOffsets. A group that never existed has committed
// nothing.
func (k KafkaOffsets) Committed(ctx context.Context, group, topic string, partition int32) (int64, error) {
	if share := k.Shared[topic]; share != "" {
		progress, err := kafka.ShareProgress(ctx, k.Admin, share, topic)
		if at, ok := progress[partition]; ok {
			return at.Below, err
		}
		return -1, err
	}
	all, err := kafka.Committed(ctx, k.Admin, group, topic)
	if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("committed offsets of %s: %w", group, err)
	}
	o, ok := all.Lookup(topic, partition)
	switch {
	case !ok, errors.Is(o.Err, kerr.UnknownTopicOrPartition):
		return -1, nil
	case o.Err != nil:
		return 0, fmt.Errorf("committed offset of %s, %s/%d: %w", group, topic, partition, o.Err)
	}
	return o.At, nil
}

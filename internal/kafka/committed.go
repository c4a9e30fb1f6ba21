package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/internal/tracker"
)

// Committed is FetchOffsetsForTopics, with nothing committed (-1) where a worker's
// commit was for another topic of the same name, one that was deleted since.
func Committed(ctx context.Context, adm *kadm.Client, group string, topics ...string) (kadm.OffsetResponses, error) {
	all, err := adm.FetchOffsetsForTopics(ctx, group, topics...)
	if err != nil {
		return all, err
	}
	named := false
	all.Each(func(o kadm.OffsetResponse) {
		_, ok := tracker.TopicID(o.Metadata)
		named = named || ok
	})
	if !named {
		return all, nil
	}
	details, err := adm.ListTopics(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("ids of topics: %w", err)
	}
	all.Each(func(o kadm.OffsetResponse) {
		now := details[o.Topic].ID
		if id, ok := tracker.TopicID(o.Metadata); ok && now != (kadm.TopicID{}) && now != id {
			o.At, o.Metadata = -1, ""
			all.Add(o)
		}
	})
	return all, nil
}

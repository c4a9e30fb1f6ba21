package dispatcher

// What Kafka says of consumer groups, for Explainer.

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/internal/kafka"
)

// Group is what a group says of one partition. A group or topic that never was
// has no member and has committed nothing.
func (k KafkaOffsets) Group(ctx context.Context, group, topic string, partition int32) (GroupFacts, error) {
	g := GroupFacts{Committed: -1}
	var err error
	if g.Committed, err = k.Committed(ctx, group, topic, partition); err != nil {
		return g, err
	}
	ends, err := k.Admin.ListEndOffsets(ctx, topic)
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return g, fmt.Errorf("end offsets of %s: %w", topic, err)
	}
	if end, ok := ends.Lookup(topic, partition); ok && end.Err == nil {
		g.End = end.Offset
	}
	if share := k.Shared[topic]; share != "" {
		g.Shared = true
		g.Members, err = kafka.ShareMembers(ctx, k.Admin, share)
		return g, err
	}
	members, state, err := k.describe(ctx, group)
	if err != nil {
		return g, err
	}
	g.Members, g.State = len(members), state
	for i := range members {
		assigned, ok := members[i].Assigned.AsConsumer()
		if !ok {
			continue
		}
		for _, t := range assigned.Topics {
			if t.Topic == topic && slices.Contains(t.Partitions, partition) {
				g.Holder = memberName(&members[i])
			}
		}
	}
	return g, nil
}

// Members is how many members a group has.
func (k KafkaOffsets) Members(ctx context.Context, group string) (int, error) {
	members, _, err := k.describe(ctx, group)
	return len(members), err
}

func (k KafkaOffsets) describe(ctx context.Context, group string) ([]kadm.DescribedGroupMember, string, error) {
	groups, err := k.Admin.DescribeGroups(ctx, group)
	if err == nil {
		err = groups[group].Err
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, "Dead", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("members of group %s: %w", group, err)
	}
	return groups[group].Members, groups[group].State, nil
}

func memberName(m *kadm.DescribedGroupMember) string {
	if m.InstanceID != nil && *m.InstanceID != "" {
		return *m.InstanceID
	}
	return m.ClientID
}

package kafka

// How far a queue's workers are, whichever way they get its records.

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/schemas"
)

// ShareGroups returns the share group of each tasks topic whose queue is shared.
func ShareGroups(cat *schemas.Catalog, n Names) map[string]string {
	groups := map[string]string{}
	for name, q := range cat.Queues {
		if q.Shared {
			groups[n.Tasks(name)] = n.ShareGroup(name)
		}
	}
	return groups
}

// Progress is how far the workers of a queue are on one partition.
type Progress struct {
	Start int64 // the group's start offset: it asks for nothing below; -1 = it has none yet
	Below int64 // every record below it is acknowledged; -1 = nothing is known to be
	Left  int64 // records that are not acknowledged; -1 = unknown, at most those from Below on; see Nudger for when it is too many
	End   int64 // where the partition ends; -1 = unknown
}

// ShareProgress returns, by partition, how far a share group is on a topic. A
// group that never was is nowhere. Below is the share group's start offset, which
// lags behind what is acknowledged; where nothing at all is left it is the end
// of the partition instead.
func ShareProgress(ctx context.Context, adm *kadm.Client, group, topic string) (map[int32]Progress, error) {
	// The ends first: what is complete afterwards is complete below them.
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("kafka: end offsets of %s: %w", topic, err)
	}
	groups, err := adm.DescribeShareGroupOffsets(ctx, group)
	if err == nil {
		err = groups[group].Err
	}
	if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: offsets of share group %s: %w", group, err)
	}
	all := map[int32]Progress{}
	for partition, o := range groups[group].Offsets[topic] {
		if errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
			continue
		}
		if o.Err != nil {
			return nil, fmt.Errorf("kafka: offset of share group %s, %s/%d: %w", group, topic, partition, o.Err)
		}
		p := Progress{Start: o.StartOffset, Below: o.StartOffset, Left: o.Lag, End: -1}
		if end, ok := ends.Lookup(topic, partition); ok && end.Err == nil {
			p.End = end.Offset
		}
		if o.Lag == 0 && o.StartOffset >= 0 {
			p.Below = max(p.Below, p.End)
		}
		all[partition] = p
	}
	return all, nil
}

// ShareMembers is the number of workers in a share group.
func ShareMembers(ctx context.Context, adm *kadm.Client, group string) (int, error) {
	members, err := shareMembers(ctx, adm, group)
	return len(members), err
}

func shareMembers(ctx context.Context, adm *kadm.Client, group string) ([]kadm.ShareGroupMember, error) {
	groups, err := adm.DescribeShareGroups(ctx, group)
	if err == nil {
		err = groups[group].Err
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: members of share group %s: %w", group, err)
	}
	return groups[group].Members, nil
}

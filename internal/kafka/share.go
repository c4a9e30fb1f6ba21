package kafka

// Share groups (KIP-932): what the queues with delivery: shared need of them.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/schemas"
)

// ErrNoShareGroups is wrapped by what tells that the brokers cannot serve a queue
// with delivery: shared.
var ErrNoShareGroups = errors.New("the brokers do not serve share groups with lock renewal")

// Settings of a share group. Kafka's own defaults would begin at the end of the
// topic, and drop a record that was given out five times without a word.
const (
	ShareResetSetting = "share.auto.offset.reset"
	ShareLimitSetting = "share.delivery.count.limit"
	ShareLockSetting  = "share.record.lock.duration.ms"
	ShareLocksSetting = "share.partition.max.record.locks"

	// ShareDeliveries is how often a record may be given out before Kafka drops
	// it: what the group is set to.
	ShareDeliveries = 10
	// ShareDeliveriesLeast is what doctor takes for good: below it, one delivery is
	// left in which to produce a record once more, and a worker may be killed in it.
	ShareDeliveriesLeast = 5
	// ShareDeliveriesMin is what a worker needs to do that at all.
	ShareDeliveriesMin = 3
)

// Requests are those of a client: to whichever broker, and to each.
type Requests interface {
	kmsg.Requestor
	DiscoveredBrokers() []*kgo.Broker
}

var shareSettings = []setting{
	{ShareResetSetting, "earliest", exact},
	{"share.isolation.level", "read_committed", exact},
	{ShareLimitSetting, strconv.Itoa(ShareDeliveries), atLeast},
}

// planShared compares the share groups of a catalog with what they must be.
func planShared(ctx context.Context, adm *kadm.Client, cat *schemas.Catalog, s Settings) ([]Change, error) {
	var changes []Change
	for _, name := range cat.QueueNames() {
		if !cat.Queues[name].Shared {
			continue
		}
		if s.Requests == nil {
			return nil, fmt.Errorf("kafka: queue %s has delivery: shared: no client to set its group with", name)
		}
		group := s.Names.ShareGroup(name)
		if err := shareSupport(ctx, adm, group); err != nil {
			return nil, fmt.Errorf("kafka: queue %s has delivery: shared: %w", name, err)
		}
		have, err := GroupSettings(ctx, s.Requests, group)
		if err != nil {
			return nil, err
		}
		for _, want := range shareSettings {
			got, known := have[want.key]
			if !known || want.holds(got) {
				continue
			}
			changes = append(changes, Change{Topic: group, What: WhatGroup, Setting: want.key, Have: got, Want: want.want, Auto: true,
				Message: fmt.Sprintf("share group %s has %s=%s, want %s: set it", group, want.key, got, want.want), requests: s.Requests})
		}
	}
	return changes, nil
}

// shareSupport looks for the newest call that a shared queue needs (renewing a
// lock, Kafka 4.2), then asks for the group: brokers that could, and whose
// cluster has not been finalized for it, refuse that.
func shareSupport(ctx context.Context, adm *kadm.Client, group string) error {
	const hint = "it needs Kafka 4.2 or later with the feature share.version enabled (kafka-features upgrade --feature share.version=1); else use delivery: partitioned"
	versions, err := adm.ApiVersions(ctx)
	if err != nil {
		return unreachable("ask the brokers for their versions", err)
	}
	for _, v := range versions {
		if v.Err != nil {
			continue // the others tell; this one is away
		}
		if most, ok := v.KeyMaxVersion(kmsg.ShareAcknowledge.Int16()); !ok || most < 2 {
			return fmt.Errorf("%w: broker %d is %s: %s", ErrNoShareGroups, v.NodeID, v.VersionGuess(), hint)
		}
	}
	groups, err := adm.DescribeShareGroupOffsets(ctx, group)
	if err == nil {
		err = groups[group].Err
	}
	switch {
	case errors.Is(err, kerr.UnsupportedVersion):
		return fmt.Errorf("%w: %s", ErrNoShareGroups, hint)
	case err == nil, errors.Is(err, kerr.GroupIDNotFound), errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil
	}
	return fmt.Errorf("ask for share group %s: %w", group, err)
}

// GroupSettings reads the settings of a group, its own and the brokers' defaults.
// What a broker does not know is not in them.
func GroupSettings(ctx context.Context, cl kmsg.Requestor, group string) (map[string]string, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, unreachable("read settings of group "+group, err)
	}
	have := map[string]string{}
	for _, r := range resp.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return nil, fmt.Errorf("kafka: read settings of group %s: allow this user to describe its configs: %w", group, err)
		}
		for _, c := range r.Configs {
			have[c.Name] = "" // kfake tells no defaults
			if c.Value != nil {
				have[c.Name] = *c.Value
			}
		}
	}
	return have, nil
}

// setGroup makes one setting of a group.
func setGroup(ctx context.Context, c Change) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, c.Topic
	set := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	set.Name, set.Value = c.Setting, &c.Want
	resource.Configs = append(resource.Configs, set)
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(ctx, c.requests)
	if err == nil {
		for _, r := range resp.Resources {
			err = errors.Join(err, kerr.ErrorForCode(r.ErrorCode))
			if r.ErrorCode != 0 && r.ErrorMessage != nil {
				err = fmt.Errorf("%w: %s", err, *r.ErrorMessage)
			}
		}
	}
	if err == nil {
		return nil
	}
	hint := ""
	switch {
	case c.Setting == ShareLimitSetting && errors.Is(err, kerr.InvalidConfig):
		hint = "; raise group.share.max.delivery.count.limit of the brokers"
	case errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		hint = "; this user may not: have it set (`perdure topics plan` lists all) and use PERDURE_KAFKA_TOPICS=check"
	}
	return fmt.Errorf("kafka: set %s=%s on share group %s%s: %w", c.Setting, c.Want, c.Topic, hint, err)
}

// again asks a broker once more where a connection was lost.
type again struct{ *kgo.Broker }

func (a again) Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	return a.RetriableRequest(ctx, req)
}

// toldByEach is what each broker that answers tells of a group: the controller knows
// of a change first, and the leader of a partition decides where its group begins by
// what it knows itself.
func toldByEach(ctx context.Context, cl Requests, group string) (told []map[string]string, err error) {
	away := unreachable("read settings of group "+group, errors.New("no broker is known"))
	for _, b := range cl.DiscoveredBrokers() {
		have, err := GroupSettings(ctx, again{b}, group)
		var refused *kerr.Error
		switch {
		case err == nil:
			told = append(told, have)
		case errors.As(err, &refused), ctx.Err() != nil:
			return nil, err
		default:
			away = err
		}
	}
	if len(told) == 0 {
		return nil, away
	}
	return told, nil // no group begins at a broker that is away
}

// brokersLearn bounds how long a broker may take to know what the controller was told.
const brokersLearn = time.Minute

// heeded waits until each broker knows a share group as it was set.
func heeded(ctx context.Context, cl Requests, group string) error {
	ctx, cancel := context.WithTimeout(ctx, brokersLearn)
	defer cancel()
	tick := time.NewTicker(visiblePoll)
	defer tick.Stop()
	for {
		told, err := toldByEach(ctx, cl, group)
		if err != nil {
			return err
		}
		late := ""
		for _, have := range told {
			for _, want := range shareSettings {
				if got, known := have[want.key]; known && !want.holds(got) {
					late = fmt.Sprintf("%s=%s", want.key, got)
				}
			}
		}
		if late == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kafka: share group %s was set, but a broker still has %s: %w", group, late, ctx.Err())
		case <-tick.C:
		}
	}
}

// CheckShareGroup says what of a share group's settings would lose records, nil
// if nothing: a worker joins no group that begins at the end of its topic. It
// returns how often Kafka gives a record out before it drops it.
func CheckShareGroup(ctx context.Context, adm *kadm.Client, cl Requests, group string) (deliveries int, err error) {
	if err := shareSupport(ctx, adm, group); err != nil {
		return 0, fmt.Errorf("kafka: %w", err)
	}
	told, err := agreed(ctx, cl, group)
	if err != nil {
		return 0, err
	}
	for _, have := range told {
		n, wrong := lossy(have)
		if len(wrong) > 0 {
			return 0, fmt.Errorf("kafka: share group %s: %s: a role that starts with PERDURE_KAFKA_TOPICS=create sets it", group, strings.Join(wrong, "; "))
		}
		if n > 0 && (deliveries == 0 || n < deliveries) {
			deliveries = n
		}
	}
	return cmp.Or(deliveries, ShareDeliveriesLeast), nil // Kafka's default, where no broker tells
}

// agreed is toldByEach once all tell the same, or when they had time for it: somebody may
// have set the group just now.
func agreed(ctx context.Context, cl Requests, group string) ([]map[string]string, error) {
	tick := time.NewTicker(visiblePoll)
	defer tick.Stop()
	var last []map[string]string
	for end := time.Now().Add(brokersLearn); ; {
		told, err := toldByEach(ctx, cl, group)
		switch {
		case err == nil:
			last = told
		case last == nil || ctx.Err() == nil:
			return nil, err
		}
		differ := slices.ContainsFunc(last, func(have map[string]string) bool {
			return have[ShareResetSetting] != last[0][ShareResetSetting] || have[ShareLimitSetting] != last[0][ShareLimitSetting]
		})
		if !differ || time.Now().After(end) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return last, nil
		case <-tick.C:
		}
	}
}

// lossy lists which of a share group's settings would lose records, and tells how
// often a record is given out, 0 where the broker does not tell.
func lossy(have map[string]string) (deliveries int, wrong []string) {
	if got := have[ShareResetSetting]; got != "earliest" {
		wrong = append(wrong, fmt.Sprintf("%s is %s: records produced before the first worker joins would never be run; want earliest", ShareResetSetting, got))
	}
	if got := have[ShareLimitSetting]; got != "" {
		n, err := strconv.Atoi(got)
		if deliveries = n; err != nil || n < ShareDeliveriesMin {
			wrong = append(wrong, fmt.Sprintf("%s is %s: want at least %d, or records that were given out often are dropped", ShareLimitSetting, got, ShareDeliveriesLeast))
		}
	}
	return deliveries, wrong
}

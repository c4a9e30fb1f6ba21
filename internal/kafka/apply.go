package kafka

// Making the topics as planned.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// visiblePoll is how often a topic just made is asked for.
const visiblePoll = 50 * time.Millisecond

// Apply does every change that is Auto, and returns when the brokers show the
// topics that it made and heed the groups that it set, or ctx ends. It goes on after
// a failure and returns all of them, joined. Another process doing the same at once
// is well.
func Apply(ctx context.Context, adm *kadm.Client, changes []Change) error {
	var errs []error
	var made []string
	groups := map[string]Requests{}
	for _, c := range changes {
		if !c.Auto {
			continue
		}
		if err := apply(ctx, adm, c); err != nil {
			errs = append(errs, err)
		} else if c.What == WhatCreate {
			made = append(made, c.Topic)
		} else if c.What == WhatGroup {
			groups[c.Topic] = c.requests
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for group, cl := range groups {
		if err := heeded(ctx, cl, group); err != nil {
			return err
		}
	}
	return visible(ctx, adm, made)
}

func apply(ctx context.Context, adm *kadm.Client, c Change) error {
	switch c.What {
	case WhatCreate:
		return create(ctx, adm, c.topic)
	case WhatSetting:
		r, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: c.Setting, Value: &c.Want}}, c.Topic)
		if err == nil {
			_, err = r.On(c.Topic, func(one *kadm.AlterConfigsResponse) error { return one.Err })
		}
		if err != nil {
			return fmt.Errorf("kafka: set %s=%s on topic %s: %w", c.Setting, c.Want, c.Topic, err)
		}
	case WhatGroup:
		return setGroup(ctx, c)
	case WhatPartitions:
		r, err := adm.UpdatePartitions(ctx, c.topic.Partitions, c.Topic)
		if err == nil {
			_, err = r.On(c.Topic, func(one *kadm.CreatePartitionsResponse) error { return one.Err })
		}
		if err != nil {
			return fmt.Errorf("kafka: raise topic %s to %d partitions: %w", c.Topic, c.topic.Partitions, err)
		}
	}
	return nil
}

func create(ctx context.Context, adm *kadm.Client, t Topic) error {
	configs := make(map[string]*string, len(t.settings))
	for _, s := range t.settings {
		configs[s.key] = &s.want
	}
	replication := int16(-1)
	if t.Replication > 0 {
		replication = int16(t.Replication)
	}
	_, err := adm.CreateTopic(ctx, int32(t.Partitions), replication, configs, t.Name)
	switch {
	case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		return nil
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return fmt.Errorf("kafka: make topic %s with replication %d: the cluster has fewer brokers up; "+
			"start them, or lower replication in the catalog: %w", t.Name, t.Replication, err)
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("kafka: make topic %s: this user may not; have it made "+
			"(`perdure topics plan` lists all) and set PERDURE_KAFKA_TOPICS=check: %w", t.Name, err)
	}
	return fmt.Errorf("kafka: make topic %s: %w", t.Name, err)
}

// visible waits until the brokers' metadata have the topics with their leaders:
// a producer that asks earlier is told that there is no such topic.
func visible(ctx context.Context, adm *kadm.Client, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	tick := time.NewTicker(visiblePoll)
	defer tick.Stop()
	for {
		details, err := listTopics(ctx, adm, topics)
		if err != nil {
			return unreachable("look for the topics just made", err)
		}
		missing := ""
		for _, name := range topics {
			if !ready(details[name]) {
				missing = name
				break
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kafka: topic %s was made but its leaders did not show up: %w", missing, ctx.Err())
		case <-tick.C:
		}
	}
}

func ready(d kadm.TopicDetail) bool {
	if d.Err != nil || len(d.Partitions) == 0 {
		return false
	}
	for _, p := range d.Partitions {
		if p.Err != nil || p.Leader < 0 {
			return false
		}
	}
	return true
}

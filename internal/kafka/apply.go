package kafka

// Making the topics as planned, or refusing to begin.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/schemas"
)

// visiblePoll is how often a topic just made is asked for.
const visiblePoll = 50 * time.Millisecond

// Apply does every change that is Auto, and returns when the brokers show the
// topics that it made, or ctx ends. It goes on after a failure and returns all
// of them, joined. Another process doing the same at once is well.
func Apply(ctx context.Context, adm *kadm.Client, changes []Change) error {
	var errs []error
	var made []string
	for _, c := range changes {
		if !c.Auto {
			continue
		}
		if err := apply(ctx, adm, c); err != nil {
			errs = append(errs, err)
		} else if c.What == WhatCreate {
			made = append(made, c.Topic)
		}
	}
	if len(errs) == 0 {
		return visible(ctx, adm, made)
	}
	return errors.Join(errs...)
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

// MismatchError lists everything that differs where nothing may be changed.
type MismatchError struct{ Changes []Change }

// Error implements error: one difference a line.
func (e *MismatchError) Error() string {
	var b strings.Builder
	b.WriteString("kafka: the topics are not as the catalog asks, and PERDURE_KAFKA_TOPICS=check changes nothing:")
	for _, c := range e.Changes {
		b.WriteString("\n  ")
		b.WriteString(c.Message)
	}
	return b.String()
}

// Ensure makes the topics right (check false, PERDURE_KAFKA_TOPICS=create) and
// returns the differences that a person must mend, for a warning. With check it
// changes nothing, and any difference is a *MismatchError, but for a lower
// max.message.bytes on tasks and retry topics: it lowers PayloadLimit.
func Ensure(ctx context.Context, adm *kadm.Client, cat *schemas.Catalog, s Settings, check bool) ([]Change, error) {
	changes, err := Plan(ctx, adm, cat, s)
	if err != nil {
		return nil, err
	}
	if check {
		return nil, mismatch(changes)
	}
	if err := Apply(ctx, adm, changes); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(changes, func(c Change) bool { return c.Auto }), nil
}

func mismatch(changes []Change) error {
	var wrong []Change
	for _, c := range changes {
		tooSmall := limit(c.Have) <= RecordOverhead
		largest := c.What == WhatSetting && c.Setting == "max.message.bytes" && limit(c.Want) == MaxTaskRecord
		if !largest || tooSmall {
			wrong = append(wrong, c)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &MismatchError{wrong}
}

// PayloadLimit returns the largest payload, in bytes, that every tasks and retry
// topic of the catalog takes: the smallest max.message.bytes less RecordOverhead,
// at most schemas.MaxPayload. The topics must be there.
func PayloadLimit(ctx context.Context, adm *kadm.Client, cat *schemas.Catalog, s Settings) (int, error) {
	var names []string
	for _, t := range Topics(cat, s) {
		for _, want := range t.settings {
			if want.key == "max.message.bytes" && limit(want.want) == MaxTaskRecord {
				names = append(names, t.Name)
			}
		}
	}
	configs, err := topicConfigs(ctx, adm, names)
	if err != nil {
		return 0, err
	}
	most := int64(schemas.MaxPayload)
	for _, name := range names {
		if got, ok := configs[name]["max.message.bytes"]; ok {
			most = min(most, limit(got)-RecordOverhead)
		}
	}
	if most <= 0 {
		return 0, fmt.Errorf("kafka: max.message.bytes of a tasks or retry topic is not above %d bytes: no payload fits", RecordOverhead)
	}
	return int(most), nil
}

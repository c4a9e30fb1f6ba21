package kafka

// The difference between the topics that are there and those that should be.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/schemas"
)

// What a Change is about.
type What string

// The things that can differ.
const (
	WhatCreate      What = "create"
	WhatSetting     What = "setting"
	WhatPartitions  What = "partitions"
	WhatReplication What = "replication"
	WhatGroup       What = "group" // a setting of a share group; Topic is the group's name
)

// Change is one difference between a topic and what the catalog asks.
type Change struct {
	Topic   string `json:"topic"`
	What    What   `json:"what"`
	Setting string `json:"setting,omitempty"` // of WhatSetting and WhatGroup
	Have    string `json:"have"`              // "" = no such topic
	Want    string `json:"want"`
	Auto    bool   `json:"auto"`    // Apply does it; else a person must
	Message string `json:"message"` // for the terminal; says what to do where Auto is false

	topic    Topic
	requests Requests // of WhatGroup
}

// Plan compares the cluster with the catalog and changes nothing. No change
// means that all is well. The order is that of Topics.
func Plan(ctx context.Context, adm *kadm.Client, cat *schemas.Catalog, s Settings) ([]Change, error) {
	wanted := Topics(cat, s)
	names := make([]string, len(wanted))
	for i, t := range wanted {
		names[i] = t.Name
	}
	details, err := listTopics(ctx, adm, names)
	if err != nil {
		return nil, unreachable("list topics", err)
	}
	var there []string
	for _, name := range names {
		if d, ok := details[name]; ok && d.Err == nil {
			there = append(there, name)
		} else if ok && !errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			return nil, fmt.Errorf("kafka: look at topic %s: %w", name, d.Err)
		}
	}
	configs, err := topicConfigs(ctx, adm, there)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, t := range wanted {
		if !slices.Contains(there, t.Name) {
			changes = append(changes, t.create())
			continue
		}
		changes = append(changes, t.compareSize(details[t.Name])...)
		changes = append(changes, t.compareSettings(configs[t.Name])...)
	}
	shared, err := planShared(ctx, adm, cat, s)
	return append(changes, shared...), err
}

// listTopics asks the brokers. kadm would answer from the client's cache, seconds
// old, in which a topic just made is not there yet; asking for what one may do
// with each topic is what makes it ask.
func listTopics(ctx context.Context, adm *kadm.Client, names []string) (kadm.TopicDetails, error) {
	return adm.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
}

// topicConfigs reads the settings of topics: topic → setting → value.
func topicConfigs(ctx context.Context, adm *kadm.Client, topics []string) (map[string]map[string]string, error) {
	resources, err := adm.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return nil, unreachable("read topic settings", err)
	}
	all := make(map[string]map[string]string, len(resources))
	for _, r := range resources {
		if r.Err != nil {
			return nil, fmt.Errorf("kafka: read settings of topic %s: %w", r.Name, r.Err)
		}
		one := make(map[string]string, len(r.Configs))
		for _, c := range r.Configs {
			one[c.Key] = c.MaybeValue()
		}
		all[r.Name] = one
	}
	return all, nil
}

func (t Topic) create() Change {
	replication := "the broker's default replication"
	if t.Replication > 0 {
		replication = fmt.Sprintf("replication %d", t.Replication)
	}
	want := fmt.Sprintf("%d partitions, %s", t.Partitions, replication)
	return Change{Topic: t.Name, What: WhatCreate, Want: want, Auto: true, topic: t,
		Message: fmt.Sprintf("topic %s is not there: make it with %s", t.Name, want)}
}

// compareSize looks at partitions and replicas.
func (t Topic) compareSize(have kadm.TopicDetail) []Change {
	var changes []Change
	n := len(have.Partitions)
	if t.Sized && n != t.Partitions {
		c := Change{Topic: t.Name, What: WhatPartitions, Have: strconv.Itoa(n), Want: strconv.Itoa(t.Partitions), topic: t}
		said := fmt.Sprintf("topic %s has %d partitions, catalog asks %d: ", t.Name, n, t.Partitions)
		switch {
		case t.Queue == "":
			c.Message = said + "its order would be lost with more; delete it while nothing runs, it is made again"
		case n > t.Partitions:
			c.Message = said + fmt.Sprintf("Kafka cannot take partitions away; write partitions: %d under queues.%s", n, t.Queue)
		case t.Ordered:
			c.Message = said + fmt.Sprintf("a kind with order: key runs on it, and more partitions would move its keys; "+
				"drain and switch: declare a new queue, point the kinds at it, let %s run empty", t.Queue)
		default:
			c.Auto = true
			c.Message = said + "add them"
		}
		changes = append(changes, c)
	}
	if t.Replication > 0 {
		replicas := math.MaxInt
		for _, p := range have.Partitions {
			replicas = min(replicas, len(p.Replicas))
		}
		if replicas != t.Replication {
			changes = append(changes, Change{Topic: t.Name, What: WhatReplication,
				Have: strconv.Itoa(replicas), Want: strconv.Itoa(t.Replication), topic: t,
				Message: fmt.Sprintf("topic %s has replication %d, catalog asks %d: move it with kafka-reassign-partitions",
					t.Name, replicas, t.Replication)})
		}
	}
	return changes
}

// compareSettings looks at the settings that the catalog, or safety, decides.
func (t Topic) compareSettings(have map[string]string) []Change {
	var changes []Change
	for _, s := range t.settings {
		got, known := have[s.key]
		if !known || s.holds(got) {
			continue
		}
		c := Change{Topic: t.Name, What: WhatSetting, Setting: s.key, Have: got, Want: s.want, Auto: true, topic: t,
			Message: fmt.Sprintf("topic %s has %s=%s, want %s: set it", t.Name, s.key, got, s.want)}
		if s.rule == period && limit(got) > limit(s.want) {
			c.Auto = false
			c.Message = fmt.Sprintf("topic %s has %s=%s, want %s: lowering it deletes records; do it with "+
				"kafka-configs if that is meant, or raise the catalog's", t.Name, s.key, got, s.want)
		}
		changes = append(changes, c)
	}
	return changes
}

func (s setting) holds(got string) bool {
	if s.rule == atLeast {
		return limit(got) >= limit(s.want)
	}
	return got == s.want
}

// limit reads a number of which -1 is without limit; what is no number is less than all.
func limit(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil:
		return math.MinInt64
	case n < 0:
		return math.MaxInt64
	}
	return n
}

// unreachable says what to look at when the cluster did not answer at all.
func unreachable(doing string, err error) error {
	return fmt.Errorf("kafka: %s: no answer from the brokers; are they up, is PERDURE_KAFKA_BROKERS right, "+
		"and TLS and SASL as they ask?: %w", doing, err)
}

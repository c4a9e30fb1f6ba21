package testkit

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteTopic deletes a topic, and returns when a broker that is asked knows it no
// more: before that a record may be taken that nobody will ever read.
func DeleteTopic(t testing.TB, cl *kgo.Client, topic string) {
	t.Helper()
	gone, err := kadm.NewClient(cl).DeleteTopics(t.Context(), topic)
	if err == nil {
		err = gone.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, 30*time.Second, func() (bool, string) {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
		res, err := req.RequestWith(t.Context(), cl)
		if err != nil || len(res.Topics) != 1 {
			return false, fmt.Sprint(topic, " cannot be asked for: ", err)
		}
		return res.Topics[0].ErrorCode == kerr.UnknownTopicOrPartition.Code, topic + " is still there"
	})
}

// SetTopicConfig sets one setting of a topic, and returns when a broker that is asked
// tells of it: the controller answers before.
func SetTopicConfig(t testing.TB, adm *kadm.Client, topic, name, value string) {
	t.Helper()
	res, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, topic)
	if err == nil {
		_, err = res.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, time.Minute, func() (bool, string) {
		all, err := adm.DescribeTopicConfigs(t.Context(), topic)
		if err != nil || len(all) != 1 {
			return false, fmt.Sprint(topic, " cannot be asked for: ", err)
		}
		for _, c := range all[0].Configs {
			if c.Key == name {
				return c.MaybeValue() == value, fmt.Sprintf("%s has %s=%s", topic, name, c.MaybeValue())
			}
		}
		return false, topic + " does not tell of " + name
	})
}

// MakeTopicAnew deletes a topic and makes another of its name, and returns when a broker
// that is asked tells of the new one. Clients that produce to the old one keep its id:
// PurgeTopicsFromProducing.
func MakeTopicAnew(t testing.TB, adm *kadm.Client, topic string, partitions int32) {
	t.Helper()
	id := func() kadm.TopicID {
		topics, err := adm.ListTopics(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		return topics[topic].ID
	}
	before := id()
	if _, err := adm.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	Eventually(t, time.Minute, func() (bool, string) { // "already exists" until it is gone
		_, err := adm.CreateTopic(t.Context(), partitions, 1, nil, topic)
		return err == nil, fmt.Sprint(err)
	})
	Eventually(t, time.Minute, func() (bool, string) {
		now := id()
		return now != before && now != kadm.TopicID{}, "the broker does not tell of the new topic"
	})
}

// AwaitTopics returns when a broker that is asked shows topics that were just made:
// it answers the making before it knows them.
func AwaitTopics(t testing.TB, cl *kgo.Client, topics ...string) {
	t.Helper()
	for _, topic := range topics {
		Eventually(t, 30*time.Second, func() (bool, string) {
			req := kmsg.NewPtrMetadataRequest()
			req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
			res, err := req.RequestWith(t.Context(), cl)
			if err != nil || len(res.Topics) != 1 {
				return false, fmt.Sprint(topic, " cannot be asked for: ", err)
			}
			one := res.Topics[0]
			for _, p := range one.Partitions {
				if p.ErrorCode != 0 || p.Leader < 0 {
					return false, fmt.Sprint(topic, " has no leader")
				}
			}
			return one.ErrorCode == 0 && len(one.Partitions) > 0, topic + " is not there yet"
		})
	}
}

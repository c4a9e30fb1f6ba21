package kafka_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
)

const sharedText = `
version: 1
queues:
  slow: {partitions: 2, delivery: shared}
kinds:
  report: {queue: slow}
`

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestAShareGroupIsSetBeforeAnybodyJoins(t *testing.T) {
	server := testkit.Kafka(t)
	cl := client(t, kgo.SeedBrokers(server.Brokers...))
	adm, cat := kadm.NewClient(cl), parse(t, sharedText)
	s := kafka.Settings{Names: kafka.Names{Prefix: server.Prefix}, History: time.Hour, MaxReplication: 1, Requests: cl}
	group := s.Names.ShareGroup("slow")
	if _, err := kafka.CheckShareGroup(deadline(t), adm, cl, group); err == nil {
		t.Error("a group as Kafka makes it was taken for good")
	}
	settings := 0
	for _, c := range plan(t, adm, cat, s) {
		if c.What == kafka.WhatGroup && c.Topic == group && c.Auto {
			settings++
		}
	}
	if settings != 3 {
		t.Errorf("%d settings of the group to make", settings)
	}
	var mismatch *kafka.MismatchError
	if _, err := kafka.Ensure(deadline(t), adm, cat, s, true); !errors.As(err, &mismatch) {
		t.Errorf("check: %v", err)
	}
	ensure(t, adm, cat, s)
	eventually(t, "the group is as asked", func() bool { return len(plan(t, adm, cat, s)) == 0 })
	if n, err := kafka.CheckShareGroup(deadline(t), adm, cl, group); err != nil || n != kafka.ShareDeliveries {
		t.Errorf("%d deliveries: %v", n, err)
	}
}

func TestBrokersWithoutShareGroupsAreRefused(t *testing.T) {
	c, err := kfake.NewCluster(kfake.MaxVersions(kversion.V4_1_0()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cl := client(t, kgo.SeedBrokers(c.ListenAddrs()...))
	_, err = kafka.Plan(deadline(t), kadm.NewClient(cl), parse(t, sharedText), kafka.Settings{Requests: cl})
	if !errors.Is(err, kafka.ErrNoShareGroups) {
		t.Errorf("got %v", err)
	}
}

// The controller answers once it knows a setting itself: no worker may join until each
// broker does, since the leader of a partition decides where its group begins.
func TestASettingOfAShareGroupIsWaitedForOnEachBroker(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cl := client(t, kgo.SeedBrokers(c.ListenAddrs()...))
	adm := kadm.NewClient(cl)
	s := kafka.Settings{History: time.Hour, MaxReplication: 1, Requests: cl}
	group := s.Names.ShareGroup("slow")

	var late atomic.Int32 // answers that the last broker still gives with Kafka's default
	late.Store(4)
	c.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked, ok := req.(*kmsg.DescribeConfigsRequest)
		if !ok || c.CurrentNode() != 2 || asked.Resources[0].ResourceType != kmsg.ConfigResourceTypeGroupConfig || late.Add(-1) < 0 {
			return nil, nil, false
		}
		resp := asked.ResponseKind().(*kmsg.DescribeConfigsResponse) //nolint:errcheck,forcetypeassert // that is its kind
		told := kmsg.NewDescribeConfigsResponseResource()
		told.ResourceType, told.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
		for name, value := range map[string]string{kafka.ShareResetSetting: "latest", kafka.ShareLimitSetting: "5", "share.isolation.level": "read_uncommitted"} {
			told.Configs = append(told.Configs, kmsg.DescribeConfigsResponseResourceConfig{Name: name, Value: &value})
		}
		resp.Resources = append(resp.Resources, told)
		return resp, nil, true
	})
	ensure(t, adm, parse(t, sharedText), s)
	if n := late.Load(); n >= 0 {
		t.Errorf("a worker may join while a broker would begin at the end: it would say so %d more times", n)
	}
	late.Store(3)
	if _, err := kafka.CheckShareGroup(deadline(t), adm, cl, group); err != nil || late.Load() >= 0 {
		t.Errorf("a broker that learns of it in a moment: %v", err)
	}
	late.Store(1 << 20)
	soon, cancel := context.WithTimeout(deadline(t), time.Second)
	defer cancel()
	if _, err := kafka.CheckShareGroup(soon, adm, cl, group); err == nil || !strings.Contains(err.Error(), kafka.ShareResetSetting) {
		t.Errorf("one of the brokers would begin at the end: %v", err)
	}
}

// denied answers as a broker whose user may not alter groups.
type denied struct{ *kgo.Client }

func (d denied) Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	alter, ok := req.(*kmsg.IncrementalAlterConfigsRequest)
	if !ok {
		return d.Client.Request(ctx, req)
	}
	resp := alter.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse) //nolint:errcheck,forcetypeassert // that is its kind
	resp.Resources = append(resp.Resources, kmsg.IncrementalAlterConfigsResponseResource{ErrorCode: 30})
	return resp, nil
}

func TestAGroupThatMayNotBeSetStopsTheStart(t *testing.T) {
	server := testkit.Kafka(t)
	cl := client(t, kgo.SeedBrokers(server.Brokers...))
	s := kafka.Settings{Names: kafka.Names{Prefix: server.Prefix}, History: time.Hour, MaxReplication: 1, Requests: denied{cl}}
	if _, err := kafka.Ensure(deadline(t), kadm.NewClient(cl), parse(t, sharedText), s, false); err == nil {
		t.Error("it went on with a group that begins at the end")
	}
}

func TestShareProgressKnowsWhatIsLeft(t *testing.T) {
	q := newSharedQueue(t)
	if p := q.at(); p.Below > 0 {
		t.Errorf("before anybody joins: %+v", p)
	}
	q.produce(4)
	worker := q.member()
	held := q.take(worker, 4)
	q.accept(worker, held[1], held[2])
	if p := q.at(); p.Below != 0 || p.Left == 0 {
		t.Errorf("the first is in hand: %+v", p)
	}
	q.accept(worker, held[0], held[3])
	eventually(t, "all is finished", func() bool { return q.at().Below == 4 })
	if n, err := kafka.ShareMembers(deadline(t), q.adm, q.group); err != nil || n != 1 {
		t.Errorf("%d members: %v", n, err)
	}
}

// What a worker refuses is what doctor fails, not more and not less.
func TestAShareGroupOfTooFewDeliveriesIsRefused(t *testing.T) {
	server := testkit.Kafka(t)
	cl := client(t, kgo.SeedBrokers(server.Brokers...))
	adm, cat := kadm.NewClient(cl), parse(t, sharedText)
	s := kafka.Settings{Names: kafka.Names{Prefix: server.Prefix}, History: time.Hour, MaxReplication: 1, Requests: cl}
	ensure(t, adm, cat, s)
	group := s.Names.ShareGroup("slow")
	for limit, good := range map[int]bool{kafka.ShareDeliveriesMin - 1: false, kafka.ShareDeliveriesMin: true, kafka.ShareDeliveriesLeast: true} {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		resource := kmsg.NewIncrementalAlterConfigsRequestResource()
		resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
		set := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		set.Name, set.Value = kafka.ShareLimitSetting, kmsg.StringPtr(strconv.Itoa(limit))
		resource.Configs = append(resource.Configs, set)
		req.Resources = append(req.Resources, resource)
		if resp, err := req.RequestWith(deadline(t), cl); err != nil || resp.Resources[0].ErrorCode != 0 {
			t.Fatal(limit, resp, err)
		}
		eventually(t, "the broker knows the limit", func() bool {
			have, err := kafka.GroupSettings(deadline(t), cl, group)
			return err == nil && have[kafka.ShareLimitSetting] == strconv.Itoa(limit)
		})
		n, err := kafka.CheckShareGroup(deadline(t), adm, cl, group)
		if good && (err != nil || n != limit) || !good && (err == nil || !strings.Contains(err.Error(), kafka.ShareLimitSetting)) {
			t.Errorf("limit %d: %d deliveries, %v", limit, n, err)
		}
	}
}

package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

const catalogText = `
version: 1
queues:
  mail: {partitions: 2, dlq_retention: 48h}
  pay: {partitions: 3, replication: 1}
kinds:
  mail.send: {queue: mail}
  refund: {queue: pay, order: key}
`

func parse(t *testing.T, text string) *schemas.Catalog {
	t.Helper()
	c, err := schemas.ParseCatalog("catalog.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func cluster(t *testing.T) (*kadm.Client, kafka.Settings) {
	t.Helper()
	s := testkit.Kafka(t)
	return admin(t, kgo.SeedBrokers(s.Brokers...)), kafka.Settings{Names: kafka.Names{Prefix: s.Prefix}, History: 24 * time.Hour}
}

func ensure(t *testing.T, adm *kadm.Client, cat *schemas.Catalog, s kafka.Settings) []kafka.Change {
	t.Helper()
	left, err := kafka.Ensure(deadline(t), adm, cat, s, false)
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func plan(t *testing.T, adm *kadm.Client, cat *schemas.Catalog, s kafka.Settings) []kafka.Change {
	t.Helper()
	changes, err := kafka.Plan(deadline(t), adm, cat, s)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// eventually asks until ok: a broker shows an altered topic a moment later.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := deadline(t)
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal("did not come true: " + what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func setting(t *testing.T, adm *kadm.Client, topic, key string) string {
	t.Helper()
	all, err := adm.DescribeTopicConfigs(deadline(t), topic)
	if err != nil {
		t.Fatal(err)
	}
	r, err := all.On(topic, func(r *kadm.ResourceConfig) error { return r.Err })
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Configs {
		if c.Key == key {
			return c.MaybeValue()
		}
	}
	t.Fatalf("topic %s has no setting %s", topic, key)
	return ""
}

func TestEnsureMakesEveryTopicOnce(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	changes := plan(t, adm, cat, s)
	if want := 2*3 + len(kafka.Tiers) + 1; len(changes) != want {
		t.Fatalf("%d changes planned on an empty cluster, want %d", len(changes), want)
	}
	for _, c := range changes {
		if c.What != kafka.WhatCreate || !c.Auto || c.Have != "" || c.Message == "" {
			t.Errorf("want a creation, got %+v", c)
		}
	}
	if left := ensure(t, adm, cat, s); len(left) != 0 {
		t.Errorf("a new cluster leaves work for a person: %+v", left)
	}
	if changes := plan(t, adm, cat, s); len(changes) != 0 {
		t.Errorf("planned again after all was made: %+v", changes)
	}
	if left := ensure(t, adm, cat, s); len(left) != 0 {
		t.Errorf("a second Ensure wants %+v", left)
	}
	for _, want := range []struct{ topic, key, value string }{
		{s.Names.Tasks("pay"), "retention.ms", "-1"},
		{s.Names.Tasks("pay"), "retention.bytes", "-1"},
		{s.Names.Tasks("pay"), "max.message.bytes", "1572864"},
		{s.Names.Retry("30s"), "retention.ms", "-1"},
		{s.Names.Retry("30s"), "message.timestamp.type", "LogAppendTime"},
		{s.Names.DLQ("mail"), "retention.ms", "172800000"},
		{s.Names.DLQ("mail"), "max.message.bytes", "2097152"},
		{s.Names.Events("mail"), "retention.ms", "86400000"},
		{s.Names.Control(), "cleanup.policy", "compact"},
	} {
		if got := setting(t, adm, want.topic, want.key); got != want.value {
			t.Errorf("%s has %s=%s, want %s", want.topic, want.key, got, want.value)
		}
	}
	details, err := adm.ListTopics(kadm.WithAuthorizedOps(deadline(t)), s.Names.Tasks("pay"), s.Names.Control())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(details[s.Names.Tasks("pay")].Partitions); n != 3 {
		t.Errorf("tasks.pay has %d partitions, want 3", n)
	}
	if n := len(details[s.Names.Control()].Partitions); n != 1 {
		t.Errorf("perdure.control has %d partitions, want 1", n)
	}
}

func TestEnsureAtOnceByTwoProcesses(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	changes := plan(t, adm, cat, s)
	ensure(t, adm, cat, s) // the other process, between our plan and our apply
	if err := kafka.Apply(deadline(t), adm, changes); err != nil {
		t.Errorf("topics that another process made in between are an error: %v", err)
	}
}

// A client that has just been told "no such topic" keeps that for its minimum
// age of metadata.
func TestPlanSeesWhatAnotherClientJustMade(t *testing.T) {
	server := testkit.Kafka(t)
	s := kafka.Settings{Names: kafka.Names{Prefix: server.Prefix}, History: time.Hour}
	adm := admin(t, kgo.SeedBrokers(server.Brokers...), kgo.MetadataMinAge(time.Minute))
	cat := parse(t, catalogText)
	if len(plan(t, adm, cat, s)) == 0 {
		t.Fatal("nothing planned on an empty cluster")
	}
	ensure(t, admin(t, kgo.SeedBrokers(server.Brokers...)), cat, s)
	if changes := plan(t, adm, cat, s); len(changes) != 0 {
		t.Errorf("the plan is from a cache: %+v", changes)
	}
}

// I4: more partitions would move the keys of an ordered queue.
func TestPartitionsOfAnOrderedQueueAreNeverRaised(t *testing.T) {
	adm, s := cluster(t)
	ensure(t, adm, parse(t, catalogText), s)
	bigger := parse(t, strings.ReplaceAll(strings.ReplaceAll(catalogText, "partitions: 3", "partitions: 6"), "partitions: 2", "partitions: 4"))
	left := ensure(t, adm, bigger, s)
	if len(left) != 1 || left[0].What != kafka.WhatPartitions || left[0].Auto || left[0].Topic != s.Names.Tasks("pay") {
		t.Fatalf("left to a person: %+v, want the partitions of tasks.pay alone", left)
	}
	if !strings.Contains(left[0].Message, "drain and switch") || left[0].Have != "3" || left[0].Want != "6" {
		t.Errorf("the change does not say what to do: %+v", left[0])
	}
	partitions := func(topic string) int {
		d, err := adm.ListTopics(kadm.WithAuthorizedOps(deadline(t)), topic)
		if err != nil {
			t.Fatal(err)
		}
		return len(d[topic].Partitions)
	}
	eventually(t, "the unordered queue has its partitions", func() bool { return partitions(s.Names.Tasks("mail")) == 4 })
	if n := partitions(s.Names.Tasks("pay")); n != 3 {
		t.Errorf("the ordered queue now has %d partitions", n)
	}
	fewer := parse(t, strings.ReplaceAll(catalogText, "partitions: 2", "partitions: 1"))
	left = ensure(t, adm, fewer, s)
	if len(left) != 1 || left[0].Auto || !strings.Contains(left[0].Message, "partitions: 4 under queues.mail") {
		t.Errorf("fewer partitions: %+v", left)
	}
}

func TestSettingsThatWouldLoseTasksAreMended(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	ensure(t, adm, cat, s)
	tasks, retry := s.Names.Tasks("mail"), s.Names.Retry("5s")
	testkit.SetTopicConfig(t, adm, tasks, "retention.ms", "604800000")
	testkit.SetTopicConfig(t, adm, tasks, "cleanup.policy", "compact")
	testkit.SetTopicConfig(t, adm, retry, "retention.bytes", "1000000")
	if n := len(plan(t, adm, cat, s)); n != 3 {
		t.Fatalf("%d changes planned, want 3", n)
	}
	ensure(t, adm, cat, s)
	eventually(t, "all settings are mended", func() bool { return len(plan(t, adm, cat, s)) == 0 })
	for _, topic := range []string{tasks, retry} {
		if ms, bytes := setting(t, adm, topic, "retention.ms"), setting(t, adm, topic, "retention.bytes"); ms != "-1" || bytes != "-1" {
			t.Errorf("%s: retention.ms=%s, retention.bytes=%s", topic, ms, bytes)
		}
	}
}

func TestLettersAreNotDeletedByLoweringTheirRetention(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	ensure(t, adm, cat, s)
	testkit.SetTopicConfig(t, adm, s.Names.DLQ("mail"), "retention.ms", "-1")
	left := ensure(t, adm, cat, s)
	if len(left) != 1 || left[0].Auto || left[0].Setting != "retention.ms" || !strings.Contains(left[0].Message, "deletes records") {
		t.Fatalf("left to a person: %+v", left)
	}
	if got := setting(t, adm, s.Names.DLQ("mail"), "retention.ms"); got != "-1" {
		t.Errorf("retention.ms of the letters was lowered to %s", got)
	}
}

func TestReplicationNeedsAPerson(t *testing.T) {
	adm, s := cluster(t)
	ensure(t, adm, parse(t, catalogText), s)
	three := parse(t, strings.ReplaceAll(catalogText, "replication: 1", "replication: 3"))
	left := ensure(t, adm, three, s)
	if len(left) == 0 {
		t.Fatal("replication 3 wanted, 1 there, nothing said")
	}
	for _, c := range left {
		if c.What != kafka.WhatReplication || c.Auto || c.Have != "1" || c.Want != "3" || !strings.Contains(c.Message, "kafka-reassign-partitions") {
			t.Errorf("unexpected: %+v", c)
		}
	}
	capped := s
	capped.MaxReplication = 1
	if left := ensure(t, adm, three, capped); len(left) != 0 {
		t.Errorf("capped at one replica, still wants %+v", left)
	}
}

func TestTooFewBrokersForReplication(t *testing.T) {
	adm, s := cluster(t)
	many := parse(t, strings.ReplaceAll(catalogText, "replication: 1", "replication: 9"))
	_, err := kafka.Ensure(deadline(t), adm, many, s, false)
	if err == nil || !strings.Contains(err.Error(), "replication 9") || !strings.Contains(err.Error(), "fewer brokers") {
		t.Fatalf("error is %v", err)
	}
	// The topics of the other queue were made all the same; a broker may hear of it later than the controller answers.
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		d, err := adm.ListTopics(deadline(t), s.Names.Tasks("mail"))
		made := err == nil && d[s.Names.Tasks("mail")].Err == nil
		return made, fmt.Sprintf("tasks.mail was not made: %v, %v", err, d[s.Names.Tasks("mail")].Err)
	})
}

func TestCheckChangesNothingAndListsAll(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	_, err := kafka.Ensure(deadline(t), adm, cat, s, true)
	var mismatch *kafka.MismatchError
	if !errors.As(err, &mismatch) || len(mismatch.Changes) != 2*3+len(kafka.Tiers)+1 {
		t.Fatalf("error is %v", err)
	}
	for _, topic := range kafka.Topics(cat, s) {
		if !strings.Contains(err.Error(), topic.Name) {
			t.Errorf("the error does not name %s", topic.Name)
		}
	}
	if n := len(plan(t, adm, cat, s)); n != len(mismatch.Changes) {
		t.Errorf("check made topics: %d changes are left", n)
	}
	ensure(t, adm, cat, s)
	if _, err := kafka.Ensure(deadline(t), adm, cat, s, true); err != nil {
		t.Errorf("all is well, yet: %v", err)
	}
}

func TestCheckTakesTheTopicsPayloadLimit(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	ensure(t, adm, cat, s)
	limit, err := kafka.PayloadLimit(deadline(t), adm, cat, s)
	if err != nil || limit != schemas.MaxPayload {
		t.Fatalf("limit is %d, %v", limit, err)
	}
	testkit.SetTopicConfig(t, adm, s.Names.Tasks("mail"), "max.message.bytes", strconv.Itoa(500_000))
	if _, err := kafka.Ensure(deadline(t), adm, cat, s, true); err != nil {
		t.Errorf("a smaller topic is a mismatch: %v", err)
	}
	if limit, err = kafka.PayloadLimit(deadline(t), adm, cat, s); err != nil || limit != 500_000-kafka.RecordOverhead {
		t.Errorf("limit is %d, %v", limit, err)
	}
	testkit.SetTopicConfig(t, adm, s.Names.Tasks("mail"), "max.message.bytes", strconv.Itoa(kafka.RecordOverhead))
	if _, err := kafka.Ensure(deadline(t), adm, cat, s, true); err == nil {
		t.Error("no payload fits into the topic, yet it is accepted")
	}
	if limit, err = kafka.PayloadLimit(deadline(t), adm, cat, s); err == nil {
		t.Errorf("no payload fits into the topic, yet the limit is %d", limit)
	}
}

func TestBatchLimitFollowsTheTopic(t *testing.T) {
	adm, s := cluster(t)
	cat := parse(t, catalogText)
	ensure(t, adm, cat, s)
	cl, err := kgo.NewClient(kgo.SeedBrokers(testkit.Kafka(t).Brokers...), kafka.BatchLimit(s.Names, kafka.MaxTaskRecord),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	letter := make([]byte, kafka.MaxLetterRecord-4096)
	if err := cl.ProduceSync(deadline(t), &kgo.Record{Topic: s.Names.DLQ("mail"), Value: letter}).FirstErr(); err != nil {
		t.Errorf("a letter of nearly 2 MiB: %v", err)
	}
	if err := cl.ProduceSync(deadline(t), &kgo.Record{Topic: s.Names.Tasks("mail"), Value: letter}).FirstErr(); err == nil {
		t.Error("a task of nearly 2 MiB was produced")
	}
	task := make([]byte, schemas.MaxPayload+100_000)
	if err := cl.ProduceSync(deadline(t), &kgo.Record{Topic: s.Names.Tasks("mail"), Value: task}).FirstErr(); err != nil {
		t.Errorf("a task of the largest payload: %v", err)
	}
}

func TestPlanSaysThatTheBrokerIsAway(t *testing.T) {
	adm := admin(t, kgo.SeedBrokers("127.0.0.1:1"))
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := kafka.Plan(ctx, adm, parse(t, catalogText), kafka.Settings{})
	if err == nil || !strings.Contains(err.Error(), "PERDURE_KAFKA_BROKERS") {
		t.Errorf("error is %v", err)
	}
}

func TestTierFor(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", 4999 * time.Millisecond: "", 5 * time.Second: "5s", 29 * time.Second: "5s", 2 * time.Minute: "2m", 100 * time.Hour: "1h",
	} {
		tier, ok := kafka.TierFor(d)
		if tier.Name != want || ok != (want != "") {
			t.Errorf("TierFor(%s) = %q, %t; want %q", d, tier.Name, ok, want)
		}
	}
}

// A history of a minute must not cost the events that a replayer has not read yet.
func TestEventsAreKeptForAnHourAtLeast(t *testing.T) {
	adm, s := cluster(t)
	s.History = time.Minute
	ensure(t, adm, parse(t, catalogText), s)
	if got := setting(t, adm, s.Names.Events("mail"), "retention.ms"); got != "3600000" {
		t.Errorf("events are kept for %s ms", got)
	}
}

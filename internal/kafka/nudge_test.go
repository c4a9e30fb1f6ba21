package kafka_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestALagThatStandsStillIsNudgedOnce(t *testing.T) {
	server := testkit.Kafka(t)
	opts := []kgo.Opt{kgo.SeedBrokers(server.Brokers...)}
	cl := client(t, opts...)
	byHand := client(t, append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	adm, cat := kadm.NewClient(cl), parse(t, sharedText)
	s := kafka.Settings{Names: kafka.Names{Prefix: server.Prefix}, History: time.Hour, MaxReplication: 1, Requests: cl}
	ensure(t, adm, cat, s)
	topic, group := s.Names.Tasks("slow"), s.Names.ShareGroup("slow")
	produce := func(n int) {
		for range n {
			if err := byHand.ProduceSync(deadline(t), &kgo.Record{Topic: topic, Partition: 0, Value: []byte("x")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce(3)
	var nudger kafka.Nudger
	look := func(why string, want int) {
		t.Helper()
		if n, err := nudger.Look(deadline(t), cl, group, topic); err != nil || n != want {
			t.Errorf("%s: %d nudges, want %d: %v", why, n, want, err)
		}
	}
	look("nobody was ever there", 0)
	member := client(t, append(opts, kgo.ClientID(kafka.Nudgeable("new")), kgo.ShareGroup(group), kgo.ConsumeTopics(topic))...)
	var held []*kgo.Record
	for len(held) < 3 {
		fetches := member.PollRecords(deadline(t), 10)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		held = append(held, fetches.Records()...)
	}
	answer := func(r *kgo.Record) {
		t.Helper()
		r.Ack(kgo.AckAccept)
		if err := member.FlushAcks(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	at := func() kafka.Progress {
		got, err := kafka.ShareProgress(deadline(t), adm, group, topic)
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	answer(held[1])
	look("nothing is known of before", 0)
	answer(held[2])
	if p := at(); p.Left != 1 || p.End != 3 {
		t.Fatalf("one of three is in hand: %+v", p)
	}
	look("one was acknowledged since", 0)
	older := client(t, append(opts, kgo.ClientID("old"), kgo.ShareGroup(group), kgo.ConsumeTopics(topic))...)
	members := func() int {
		n, err := kafka.ShareMembers(deadline(t), adm, group)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "both are members", func() bool { return members() == 2 })
	look("an older worker does not know what it is", 0)
	older.Close()
	eventually(t, "the older one is gone", func() bool { return members() == 1 })
	look("nothing happened since", 1)
	for range 4 {
		look("it may be a task of hours", 0)
	}
	if p := at(); p.End != 4 {
		t.Errorf("the nudge lies elsewhere: %+v", p)
	}
	held[0].Ack(kgo.AckAccept)
	nudge := member.PollRecords(deadline(t), 10).Records()
	if len(nudge) != 1 || nudge[0].Partition != 0 || len(nudge[0].Headers) != 1 || nudge[0].Headers[0].Key != schemas.HeaderNudge {
		t.Fatalf("the member got %v", nudge)
	}
	answer(nudge[0])
	eventually(t, "all is finished", func() bool { return at().Left == 0 })
	look("all is finished", 0)
	look("all is finished", 0)
	member.Close()
	produce(1)
	for range 3 {
		look("a backlog, and nobody is there", 0)
	}
	if p := at(); p.Left != 1 {
		t.Errorf("one is left: %+v", p)
	}
}

package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestASharedQueueIsTrimmedBelowItsGroupsStart(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	topic, group := g.names.Tasks("mail"), g.names.ShareGroup("mail")
	var recs []*kgo.Record
	for n := range 10 {
		recs = append(recs, &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Append(nil, n)})
	}
	g.produce(recs...)
	p := recs[0].Partition
	r := g.relay("a", nil)
	trim := func() int64 {
		q := &schemas.Queue{Name: "mail", Retention: -time.Hour, Shared: true}
		if err := r.trimQueue(t.Context(), g.adm, q); err != nil {
			t.Fatal(err)
		}
		s, err := g.adm.ListStartOffsets(context.Background(), topic)
		if err != nil {
			t.Fatal(err)
		}
		o, _ := s.Lookup(topic, p)
		return o.Offset
	}
	if at := trim(); at != 0 {
		t.Errorf("trimmed to %d although there is no group", at)
	}
	committed := kadm.Offsets{} // of the time before the queue was shared
	committed.AddOffset(topic, p, 9, -1)
	if _, err := g.adm.CommitOffsets(t.Context(), g.names.WorkerGroup("mail"), committed); err != nil {
		t.Fatal(err)
	}
	start := kadm.Offsets{}
	start.AddOffset(topic, p, 4, -1)
	if _, err := g.adm.AlterShareGroupOffsets(t.Context(), group, start); err != nil {
		t.Fatal(err)
	}
	if at := trim(); at != 4 {
		t.Errorf("trimmed to %d, want the share group's start: 4", at)
	}
}

func TestALagOfASharedQueueThatStandsStillIsNudged(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.cat.Queues["mail"].Shared = true
	if _, err := kafka.Ensure(t.Context(), g.adm, g.cat, kafka.Settings{Names: g.names, History: time.Hour, MaxReplication: 1, Requests: g.cl}, false); err != nil {
		t.Fatal(err)
	}
	topic := g.names.Tasks("mail")
	rec := &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("v")}
	g.produce(rec, &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("v")})
	member, err := kgo.NewClient(kgo.SeedBrokers(g.kafka.Brokers...), kgo.ShareGroup(g.names.ShareGroup("mail")), kgo.ConsumeTopics(topic),
		kgo.ClientID(kafka.Nudgeable("worker")), kgo.ShareMaxRecords(1), kgo.ShareMaxRecordsStrict())
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	take := func(which string) *kgo.Record {
		t.Helper()
		fetches := member.PollRecords(ctx, 1)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%s record: %v", which, err)
		}
		return fetches.Records()[0]
	}
	take("first")  // Kafka knows no lag before the first answer
	take("second") // answers for that one; keep this one: the next poll lets it go
	if err := member.FlushAcks(ctx); err != nil {
		t.Fatal(err)
	}
	g.run(g.relay("a", func(c *Config) { c.Upkeep = 100 * time.Millisecond }))
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		ends, err := g.adm.ListEndOffsets(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		end, _ := ends.Lookup(topic, rec.Partition)
		return end.Offset == 3, fmt.Sprintf("the partition ends at %d", end.Offset)
	})
	if r := take("third"); headerOf(r, schemas.HeaderNudge) == "" {
		t.Errorf("got %v", r)
	}
}

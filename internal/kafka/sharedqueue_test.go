package kafka_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
)

// sharedQueue is the queue slow of sharedText on the test's brokers.
type sharedQueue struct {
	t            *testing.T
	opts         []kgo.Opt // every client's
	cl           *kgo.Client
	byHand       *kgo.Client
	adm          *kadm.Client
	topic, group string
}

func newSharedQueue(t *testing.T) *sharedQueue {
	t.Helper()
	server := testkit.Kafka(t)
	q := &sharedQueue{t: t, opts: []kgo.Opt{kgo.SeedBrokers(server.Brokers...)}}
	q.cl = client(t, q.opts...)
	q.byHand = client(t, append(q.opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	q.adm = kadm.NewClient(q.cl)
	s := kafka.Settings{Names: kafka.Names{Prefix: server.Prefix}, History: time.Hour, MaxReplication: 1, Requests: q.cl}
	ensure(t, q.adm, parse(t, sharedText), s)
	q.topic, q.group = s.Names.Tasks("slow"), s.Names.ShareGroup("slow")
	return q
}

// produce writes n records to partition 0.
func (q *sharedQueue) produce(n int) {
	q.t.Helper()
	for range n {
		if err := q.byHand.ProduceSync(deadline(q.t), &kgo.Record{Topic: q.topic, Partition: 0, Value: []byte("x")}).FirstErr(); err != nil {
			q.t.Fatal(err)
		}
	}
}

// member is one more consumer of the queue's share group.
func (q *sharedQueue) member(opts ...kgo.Opt) *kgo.Client {
	q.t.Helper()
	return client(q.t, append(append(opts, q.opts...), kgo.ShareGroup(q.group), kgo.ConsumeTopics(q.topic))...)
}

// take reads n records and answers for none.
func (q *sharedQueue) take(member *kgo.Client, n int) []*kgo.Record {
	q.t.Helper()
	var held []*kgo.Record
	for len(held) < n {
		fetches := member.PollRecords(deadline(q.t), n-len(held))
		if err := fetches.Err(); err != nil {
			q.t.Fatal(err)
		}
		held = append(held, fetches.Records()...)
	}
	return held
}

func (q *sharedQueue) accept(member *kgo.Client, rs ...*kgo.Record) {
	q.t.Helper()
	for _, r := range rs {
		r.Ack(kgo.AckAccept)
	}
	if err := member.FlushAcks(deadline(q.t)); err != nil {
		q.t.Fatal(err)
	}
}

// at is the progress of partition 0.
func (q *sharedQueue) at() kafka.Progress {
	q.t.Helper()
	got, err := kafka.ShareProgress(deadline(q.t), q.adm, q.group, q.topic)
	if err != nil {
		q.t.Fatal(err)
	}
	return got[0]
}

package embedded

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const testTopic = "tasks.kept"

func TestKafkaRecordsAndOffsetsSurviveAStop(t *testing.T) {
	dir := t.TempDir()
	k := startKafka(t, dir)
	fillKafka(t, k.Brokers()[0], 100)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	checkKafka(t, startKafka(t, dir).Brokers()[0], 100)
}

func TestKafkaRecordsAndOffsetsSurviveKill9(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		c := startChild(t, "kafka", dir)
		if round > 0 {
			checkKafka(t, c.told, 100*round)
		}
		fillKafka(t, c.told, 100)
		c.kill()
	}
	checkKafka(t, startKafka(t, dir).Brokers()[0], 300)
}

// What was acknowledged is there, also when the kill falls into the writing.
func TestKafkaAcknowledgedRecordsSurviveKill9(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, "kafka", dir)
	fillKafka(t, c.told, 1)
	cl, _ := dialKafka(t, c.told, kgo.MaxBufferedRecords(1000))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var highest atomic.Int64
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		for ctx.Err() == nil {
			cl.Produce(ctx, &kgo.Record{Topic: testTopic, Value: make([]byte, 1024)}, func(r *kgo.Record, err error) {
				if err == nil {
					highest.Store(r.Offset)
				}
			})
		}
	}()
	deadline := time.Now().Add(10 * time.Second)
	for highest.Load() < 5000 {
		if time.Now().After(deadline) {
			t.Fatalf("only %d records were acknowledged", highest.Load())
		}
		time.Sleep(pollEvery) // poll
	}
	c.kill()
	cancel()
	<-produced
	cl.Close()
	_, adm := dialKafka(t, startKafka(t, dir).Brokers()[0])
	ends, err := adm.ListEndOffsets(t.Context(), testTopic)
	if err != nil {
		t.Fatal(err)
	}
	if end, _ := ends.Lookup(testTopic, 0); end.Offset <= highest.Load() {
		t.Fatalf("offset %d was acknowledged, the log ends at %d", highest.Load(), end.Offset)
	}
}

func TestKafkaInMemoryLeavesNothing(t *testing.T) {
	k := startKafka(t, "")
	fillKafka(t, k.Brokers()[0], 1)
	checkKafka(t, k.Brokers()[0], 1)
}

func TestKafkaRefusesATakenPort(t *testing.T) {
	k := startKafka(t, "")
	var port int
	if _, err := fmt.Sscanf(k.Brokers()[0], "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	if _, err := StartKafka(t.Context(), KafkaConfig{Port: port}); err == nil {
		t.Fatal("two brokers on one port")
	}
}

func startKafka(t *testing.T, dir string) *Kafka {
	t.Helper()
	k, err := StartKafka(t.Context(), KafkaConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func dialKafka(t *testing.T, broker string, opts ...kgo.Opt) (*kgo.Client, *kadm.Client) {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(broker))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, kadm.NewClient(cl)
}

// fillKafka adds n records, and commits for a group that it has read them all.
func fillKafka(t *testing.T, broker string, n int) {
	t.Helper()
	cl, adm := dialKafka(t, broker)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, testTopic); err != nil && !kafkaHas(t, adm) {
		t.Fatal(err)
	}
	for range n {
		r := &kgo.Record{Topic: testTopic, Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "ce_id", Value: []byte("main-1-1")}}}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := adm.ListEndOffsets(t.Context(), testTopic)
	if err != nil {
		t.Fatal(err)
	}
	if err := adm.CommitAllOffsets(t.Context(), "perdure.kept", ends.Offsets()); err != nil {
		t.Fatal(err)
	}
}

func kafkaHas(t *testing.T, adm *kadm.Client) bool {
	t.Helper()
	topics, err := adm.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return topics.Has(testTopic)
}

// checkKafka reads the topic from its start: n records, none twice, and the
// group's offset at n.
func checkKafka(t *testing.T, broker string, n int) {
	t.Helper()
	cl, adm := dialKafka(t, broker, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		testTopic: {0: kgo.NewOffset().AtStart()},
	}))
	committed, err := adm.FetchOffsets(t.Context(), "perdure.kept")
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := committed.Lookup(testTopic, 0); !ok || at.At != int64(n) {
		t.Fatalf("committed offset is %d (there: %v), want %d", at.At, ok, n)
	}
	deadline := time.Now().Add(10 * time.Second)
	for next := int64(0); next < int64(n); {
		if time.Now().After(deadline) {
			t.Fatalf("read %d of %d records", next, n)
		}
		fetches := cl.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next || len(r.Headers) != 1 || string(r.Value) != "v" {
				t.Fatalf("record %d came where %d was due: %v", r.Offset, next, r)
			}
			next++
		})
	}
}

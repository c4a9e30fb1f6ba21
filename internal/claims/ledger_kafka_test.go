package claims

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func newKafkaLedger(t *testing.T, k testkit.KafkaServer) *KafkaLedger {
	t.Helper()
	l, err := NewKafkaLedger(k.Prefix+"perdure.control", kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// controlTopic makes a test's perdure.control and a client for it.
func controlTopic(t *testing.T, k testkit.KafkaServer) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	compact := "compact"
	resp, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": &compact}, k.Prefix+"perdure.control")
	if err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
	return cl
}

func TestLedgerAmongOtherKeysIsReadToItsEnd(t *testing.T) {
	k := testkit.Kafka(t)
	cl := controlTopic(t, k)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, b := newKafkaLedger(t, k), newKafkaLedger(t, k)
	if n, err := a.Last(ctx); err != nil || n != 0 {
		t.Fatalf("empty ledger: %d, %v", n, err)
	}
	for n := int64(1); n <= 3; n++ {
		if err := a.Raise(ctx, n); err != nil {
			t.Fatal(err)
		}
		other := &kgo.Record{Topic: k.Prefix + "perdure.control", Key: []byte("relayed/main"), Value: []byte(`{"seq":1}`)}
		if err := cl.ProduceSync(ctx, other).FirstErr(); err != nil {
			t.Fatal(err)
		}
		for _, l := range []*KafkaLedger{a, b} {
			if got, err := l.Last(ctx); err != nil || got != n {
				t.Fatalf("after Raise(%d): %d, %v", n, got, err)
			}
		}
	}
}

// A raiser that slept while others went on: whatever compaction leaves, the
// highest number is still there.
func TestLedgerKeepsTheHighestThroughASlowRaiserAndCompaction(t *testing.T) {
	k := testkit.Kafka(t)
	cl := controlTopic(t, k)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l := newKafkaLedger(t, k)
	for _, n := range []int64{1, 2, 3, 2} {
		if err := l.Raise(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := newKafkaLedger(t, k).Last(ctx); err != nil || got != 3 {
		t.Fatalf("the highest counts: %d, %v", got, err)
	}
	// What compaction must keep is the last record of each key.
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{k.Prefix + "perdure.control": {0: kgo.NewOffset().At(0)}})
	latest := map[string]string{}
	for read := 0; read < 4; {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) { latest[string(r.Key)] = string(r.Value); read++ })
	}
	if latest["incarnation/3"] != `{"n":3}` {
		t.Fatalf("compaction would leave %v", latest)
	}
}

func TestLedgerWithGarbageOrWithoutTopicIsAnErrorNotZero(t *testing.T) {
	k := testkit.Kafka(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if n, err := newKafkaLedger(t, k).Last(ctx); err == nil {
		t.Fatalf("no topic: %d and no error", n)
	}
	cl := controlTopic(t, k)
	for _, value := range []string{"", "{", `{"n":-4}`} {
		rec := &kgo.Record{Topic: k.Prefix + "perdure.control", Key: []byte("incarnation"), Value: []byte(value)}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if n, err := newKafkaLedger(t, k).Last(ctx); err == nil {
			t.Fatalf("value %q: %d and no error", value, n)
		}
	}
}

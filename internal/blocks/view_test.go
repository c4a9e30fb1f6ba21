package blocks

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// control makes a topic for blocks, and returns options to reach it.
func control(t *testing.T, configs map[string]*string) (topic string, opts []kgo.Opt, cl *kgo.Client) {
	t.Helper()
	k := testkit.Kafka(t)
	opts = []kgo.Opt{kgo.SeedBrokers(k.Brokers...)}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	topic = k.Prefix + "control"
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, configs, topic); err != nil {
		t.Fatal(err)
	}
	return topic, opts, cl
}

// view follows the topic until the test ends.
func view(t *testing.T, topic string, opts []kgo.Opt) *View {
	t.Helper()
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	v := NewView(topic, []string{"jobs", "mail"}, slog.New(slog.DiscardHandler), cl, opts...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return v
}

func put(t *testing.T, cl *kgo.Client, topic string, recs ...*kgo.Record) {
	t.Helper()
	for _, r := range recs {
		r.Topic = topic
	}
	if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func stand(t *testing.T, queue, letter string) *kgo.Record {
	t.Helper()
	r, err := Block{Queue: queue, Letter: letter, Key: "k"}.Stand()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func synced(t *testing.T, v *View, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return v.Sync(ctx)
}

// What is not readable of one queue's blocks is nothing to the others' tasks.
func TestABadRecordStopsNoOtherQueue(t *testing.T) {
	topic, opts, cl := control(t, nil)
	put(t, cl, topic,
		&kgo.Record{Key: []byte("block/"), Value: []byte("x")},
		&kgo.Record{Key: []byte("block/other/main-1-1@0"), Value: []byte("x")},
		stand(t, "jobs", "main-1-2@0"))
	v := view(t, topic, opts)
	if err := synced(t, v, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := v.Blocks(LineOf("jobs", "main-1-9", "k")); len(got) != 1 {
		t.Errorf("blocks: %v", got)
	}
}

// One that cannot be read may be any key's: nothing is sure until it has its end.
func TestABadBlockStandsUntilItsEnd(t *testing.T) {
	topic, opts, cl := control(t, nil)
	put(t, cl, topic, &kgo.Record{Key: []byte("block/jobs/main-1-1@0"), Value: []byte("x")}, stand(t, "jobs", "main-1-2@0"))
	v := view(t, topic, opts)
	for deadline := time.Now().Add(time.Minute); v.Count("jobs") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the block behind it is not read")
		}
		time.Sleep(time.Millisecond)
	}
	if err := synced(t, v, time.Minute); err == nil || !strings.Contains(err.Error(), "main-1-1@0") {
		t.Errorf("synced: %v", err)
	}
	put(t, cl, topic, End("jobs", "main-1-1@0"))
	if err := synced(t, v, time.Minute); err != nil {
		t.Error(err)
	}
}

// Many lines that make sure of their blocks at once need no connection each.
func TestSyncsShareAConnection(t *testing.T) {
	topic, opts, cl := control(t, nil)
	put(t, cl, topic, stand(t, "jobs", "main-1-1@0"))
	var dialed atomic.Int64
	opts = append(opts, kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		dialed.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, host)
	}))
	v := view(t, topic, opts)
	errs := make(chan error)
	const n = 50
	for range n {
		go func() { errs <- synced(t, v, time.Minute) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := dialed.Load(); got > n/2 {
		t.Errorf("%d connections for %d syncs", got, n)
	}
}

// What a worker holds of each block.
func BenchmarkApply(b *testing.B) {
	v := NewView("t", []string{"jobs"}, slog.New(slog.DiscardHandler), nil)
	b.ReportAllocs()
	for i := range b.N {
		r, err := Block{Queue: "jobs", Letter: fmt.Sprintf("main-1-%d@0", i+1), Key: fmt.Sprintf("customer-%d", i)}.Stand()
		if err != nil {
			b.Fatal(err)
		}
		v.apply(r)
	}
}

package worker_test

// A process that comes back under its name, and Kafka that still has its place.

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// TestWhatAKilledWorkerWasGivingUpIsNobodysForLong: another worker joined, and this
// one was killed before it told the group that it had given its partitions up. Who
// comes back under its name gets what it was left with, and Kafka sees no change.
func TestWhatAKilledWorkerWasGivingUpIsNobodysForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	member := func(instance, topic string, more ...kgo.Opt) {
		cl, err := kgo.NewClient(append(more, kgo.SeedBrokers(w.kafka.Brokers...), kgo.ConsumerGroup(w.names.WorkerGroup("jobs")),
			kgo.ConsumeTopics(topic), kgo.InstanceID(instance), kgo.Balancers(kgo.CooperativeStickyBalancer()),
			kgo.HeartbeatInterval(50*time.Millisecond), kgo.SessionTimeout(longSession), kgo.DisableAutoCommit())...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
	}
	// Who leads the group looks after its own place. This one has no part in the rest.
	member("leader", w.names.Events("jobs"))
	testkit.Eventually(t, wait, func() (bool, string) { return w.members()["leader"] != "", "it does not join" })
	assigned, revoked, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var has, gives sync.Once
	member("a", w.names.Tasks("jobs"),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, more map[string][]int32) {
			if len(more) > 0 {
				has.Do(func() { close(assigned) })
			}
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
			if len(gone) > 0 { // what runs has its grace, in which the process ends
				gives.Do(func() { close(revoked) })
				<-over
			}
		}))
	t.Cleanup(func() { close(over) })
	l := newLedger()
	for _, c := range []chan struct{}{assigned, revoked} {
		select {
		case <-c:
		case <-time.After(wait):
			t.Fatal("the partitions are not shared out")
		}
		if c == assigned {
			w.start("another", nil, ledgered(l))
		}
	}
	if w.members()["a"] == "" {
		t.Fatal("Kafka does not count it any more: this shows nothing")
	}
	w.start("a", nil, ledgered(l))
	const n = 100 // on every partition
	w.sendJobs(n)
	l.doneWithin(t, n)
	w.committedAll("jobs")
}

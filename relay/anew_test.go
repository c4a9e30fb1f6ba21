package relay

// Delay topics that were deleted, and others made of their names.

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/internal/tracker"
)

// polled tells of records that a client hands over.
type polled chan string

// OnFetchRecordUnbuffered implements kgo.HookFetchRecordUnbuffered.
func (p polled) OnFetchRecordUnbuffered(r *kgo.Record, handed bool) {
	if handed {
		p <- string(r.Value)
	}
}

func (g *rig) makeAnew(adm *kadm.Client, topic string, partitions int) {
	g.t.Helper()
	testkit.MakeTopicAnew(g.t, adm, topic, int32(partitions))
	g.cl.PurgeTopicsFromProducing(topic)
}

// namer is a client of brokers that take a commit by the topic's name, and looks anew
// whenever it is asked.
func (g *rig) namer() *kadm.Client {
	g.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(g.kafka.Brokers...)}, kgo.MaxVersions(kversion.V4_0_0()), kgo.MetadataMinAge(10*time.Millisecond))...)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// moved waits until relays have committed n records of a delay topic.
func (g *rig) moved(topic string, n int64) kadm.Offsets {
	g.t.Helper()
	var of kadm.Offsets
	testkit.Eventually(g.t, time.Minute, func() (bool, string) {
		all, err := g.adm.FetchOffsets(g.t.Context(), g.names.RetryGroup())
		if err != nil {
			return false, err.Error()
		}
		sum := int64(0)
		of = kadm.Offsets{}
		all.Each(func(o kadm.OffsetResponse) {
			if o.Topic == topic && o.At > 0 {
				sum += o.At
				of.Add(o.Offset)
			}
		})
		return sum == n, fmt.Sprintf("%d committed of %s, want %d", sum, topic, n)
	})
	return of
}

// A relay that runs moves what comes on a delay topic that was made anew, and what it has
// in hand of the old one; one that starts counts no offset of the old one.
func TestADelayTopicThatWasMadeAnewIsMoved(t *testing.T) {
	for name, opts := range map[string][]kgo.Opt{"before 4.1": {kgo.MaxVersions(kversion.V4_0_0())}, "now": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t)
			namer := g.namer()
			topic, tasks := g.names.Retry("30s"), g.names.Tasks("payments")
			seen := make(polled, 1000)
			relay := func(owner string) *Relay {
				r := g.relay(owner, nil)
				r.deps.Kafka = append(append(r.deps.Kafka, kgo.FetchMaxWait(50*time.Millisecond), kgo.WithHooks(seen)), opts...)
				return r
			}
			due := func(from, to int) {
				t.Helper()
				for n := from; n <= to; n++ {
					g.produce(g.retry("30s", "payments", fmt.Sprintf("main-1-%d", n), time.Minute, 0))
				}
			}
			due(1, 8)
			a := g.run(relay("a"))
			old := g.moved(topic, 8)
			now, err := namer.ListTopics(t.Context(), topic)
			if err != nil {
				t.Fatal(err)
			}
			old.Each(func(o kadm.Offset) {
				if id, ok := tracker.TopicID(o.Metadata); !ok || id != [16]byte(now[topic].ID) {
					t.Errorf("the commit %+v does not name the topic", o)
				}
			})
			g.produce(g.retry("30s", "payments", "main-1-9", 0, 3*time.Second))
			for value := range seen {
				if value == "main-1-9" {
					break // it is in hand, and due later
				}
			}
			partitions := len(now[topic].Partitions)
			g.makeAnew(namer, topic, partitions)
			due(11, 12)
			g.records(time.Minute, func(r []*kgo.Record) bool { return len(values(r)) == 11 }, tasks)
			g.moved(topic, 2)
			if err := a.stop(); err != nil {
				t.Fatal(err)
			}

			// Whoever had not noticed commits late, and brokers before 4.1 take it.
			g.makeAnew(namer, topic, partitions)
			due(21, 32)
			if err := namer.CommitAllOffsets(t.Context(), g.names.RetryGroup(), old); err != nil {
				t.Fatal(err)
			}
			g.run(relay("b"))
			g.records(time.Minute, func(r []*kgo.Record) bool { return len(values(r)) == 23 }, tasks)
			g.moved(topic, 12)
		})
	}
}

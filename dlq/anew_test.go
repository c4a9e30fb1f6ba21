package dlq

// Dead-letter topics that were deleted, and others made of their names.

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/internal/tracker"
)

// brokersOf are the requests of brokers that know topics by their names in commits, and
// of those that know their ids.
var brokersOf = map[string][]kgo.Opt{"before 4.1": {kgo.MaxVersions(kversion.V4_0_0())}, "now": nil}

// makeAnew deletes a topic and makes another of its name, of two partitions.
func (r *rig) makeAnew(adm *kadm.Client, topic string) {
	r.t.Helper()
	testkit.MakeTopicAnew(r.t, adm, topic, 2)
	r.cl.PurgeTopicsFromProducing(topic)
}

// namer is a client of brokers that take a commit by the topic's name, and looks anew
// whenever it is asked.
func (r *rig) namer() *kadm.Client {
	r.t.Helper()
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), r.deps.Kafka...), kgo.MaxVersions(kversion.V4_0_0()), kgo.MetadataMinAge(10*time.Millisecond))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// committed waits until the group has read n records of a topic, and returns what it
// committed.
func (r *rig) committed(topic string, n int64) kadm.OffsetResponses {
	r.t.Helper()
	group := r.names.IndexGroup(kafka.DefaultSource)
	var all kadm.OffsetResponses
	testkit.Eventually(r.t, time.Minute, func() (bool, string) {
		var err error
		all, err = kadm.NewClient(r.cl).FetchOffsets(r.t.Context(), group)
		if err != nil {
			return false, err.Error()
		}
		sum := int64(0)
		all.Each(func(o kadm.OffsetResponse) {
			if o.Topic == topic {
				sum += max(0, o.At)
			}
		})
		return sum == n, fmt.Sprintf("%d committed of %s, want %d", sum, topic, n)
	})
	return all
}

func (r *rig) die(topic string, from, to int) {
	r.t.Helper()
	for n := from; n <= to; n++ {
		r.produce(topic, Encode(letterOf(fmt.Sprintf("main-1-%d", n), 0)))
	}
}

// The index that runs reads on, and an index that starts counts no offset of the old topic.
func TestAnIndexReadsADeadLetterTopicThatWasMadeAnew(t *testing.T) {
	for name, opts := range brokersOf {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.deps.Kafka = append(append(r.deps.Kafka, kgo.MetadataMinAge(50*time.Millisecond), kgo.FetchMaxWait(50*time.Millisecond)), opts...)
			namer, stop := r.namer(), r.start()
			topic := r.names.DLQ("payments")
			r.die(topic, 1, 6)
			r.eventually(6, `select count(*) from perdure.dead_letters`)
			old := r.committed(topic, 6)
			now, err := namer.ListTopics(t.Context(), topic)
			if err != nil {
				t.Fatal(err)
			}
			old.Each(func(o kadm.OffsetResponse) {
				if id, ok := tracker.TopicID(o.Metadata); o.Topic == topic && (!ok || id != [16]byte(now[topic].ID)) {
					t.Errorf("the commit %+v does not name the topic", o)
				}
			})
			r.makeAnew(namer, topic)
			r.die(topic, 11, 12)
			r.eventually(8, `select count(*) from perdure.dead_letters`)
			r.committed(topic, 2)
			stop()

			// Whoever had not noticed commits late, and brokers before 4.1 take it.
			r.makeAnew(namer, topic)
			late := kadm.Offsets{}
			old.Each(func(o kadm.OffsetResponse) {
				if o.Topic == topic {
					late.Add(o.Offset)
				}
			})
			r.die(topic, 21, 32)
			if err := namer.CommitAllOffsets(t.Context(), r.names.IndexGroup(kafka.DefaultSource), late); err != nil {
				t.Fatal(err)
			}
			r.start()
			r.eventually(20, `select count(*) from perdure.dead_letters`)
			r.committed(topic, 12)
		})
	}
}

package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/tracker"
)

// An offset counts if it is of this topic, or does not say of which.
func TestAnOffsetOfAnotherTopicOfThisNameIsNone(t *testing.T) {
	adm, s := cluster(t)
	ensure(t, adm, parse(t, catalogText), s)
	topic, group := s.Names.Tasks("mail"), s.Names.WorkerGroup("mail")
	var now kadm.TopicID
	eventually(t, "the topic is known", func() bool {
		details, err := adm.ListTopics(deadline(t), topic)
		now = details[topic].ID
		return err == nil && details[topic].Err == nil && len(details[topic].Partitions) == 2
	})
	for name, c := range map[string]struct {
		metadata string
		want     int64
	}{
		"this topic's":             {metadata(t, now), 7},
		"another's":                {metadata(t, kadm.TopicID{1, 2, 3}), -1},
		"one that does not say":    {"", 7},
		"one of another program":   {"by hand", 7},
		"one without a topic's id": {metadata(t, kadm.TopicID{}), 7},
	} {
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: topic, Partition: 1, At: 7, LeaderEpoch: -1, Metadata: c.metadata})
		if err := adm.CommitAllOffsets(deadline(t), group, offsets); err != nil {
			t.Fatal(err)
		}
		all, err := kafka.Committed(deadline(t), adm, group, topic)
		if err != nil {
			t.Fatal(err)
		}
		if o, ok := all.Lookup(topic, 1); !ok || o.At != c.want {
			t.Errorf("%s: %+v, want %d", name, o, c.want)
		}
	}
}

func metadata(t *testing.T, topic kadm.TopicID) string {
	t.Helper()
	tr, err := tracker.New(6, "", topic)
	if err != nil {
		t.Fatal(err)
	}
	tr.Deliver(6, -1)
	tr.Ack(6)
	c, ok := tr.Commit()
	if !ok || c.Offset != 7 {
		t.Fatalf("it commits %+v", c)
	}
	return c.Metadata
}

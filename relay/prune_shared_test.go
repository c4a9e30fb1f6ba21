package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

func TestASharedQueueIsTrimmedBelowItsGroupsStart(t *testing.T) {
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

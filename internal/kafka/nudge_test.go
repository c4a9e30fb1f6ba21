package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

func TestALagThatStandsStillIsNudgedOnce(t *testing.T) {
	q := newSharedQueue(t)
	q.produce(3)
	var nudger kafka.Nudger
	look := func(why string, want int) {
		t.Helper()
		if n, err := nudger.Look(deadline(t), q.cl, q.group, q.topic); err != nil || n != want {
			t.Errorf("%s: %d nudges, want %d: %v", why, n, want, err)
		}
	}
	look("nobody was ever there", 0)
	member := q.member(kgo.ClientID(kafka.Nudgeable("new")))
	held := q.take(member, 3)
	q.accept(member, held[1])
	look("nothing is known of before", 0)
	q.accept(member, held[2])
	if p := q.at(); p.Left != 1 || p.End != 3 {
		t.Fatalf("one of three is in hand: %+v", p)
	}
	look("one was acknowledged since", 0)
	older := q.member(kgo.ClientID("old"))
	members := func() int {
		n, err := kafka.ShareMembers(deadline(t), q.adm, q.group)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "both are members", func() bool { return members() == 2 })
	look("an older worker does not know what it is", 0)
	older.Close()
	eventually(t, "the older one is gone", func() bool { return members() == 1 })
	look("nothing happened since", 1)
	for range 4 {
		look("it may be a task of hours", 0)
	}
	if p := q.at(); p.End != 4 {
		t.Errorf("the nudge lies elsewhere: %+v", p)
	}
	held[0].Ack(kgo.AckAccept)
	nudge := q.take(member, 1)
	if nudge[0].Partition != 0 || len(nudge[0].Headers) != 1 || nudge[0].Headers[0].Key != schemas.HeaderNudge {
		t.Fatalf("the member got %v", nudge)
	}
	q.accept(member, nudge[0])
	eventually(t, "all is finished", func() bool { return q.at().Left == 0 })
	look("all is finished", 0)
	look("all is finished", 0)
	member.Close()
	q.produce(1)
	for range 3 {
		look("a backlog, and nobody is there", 0)
	}
	if p := q.at(); p.Left != 1 {
		t.Errorf("one is left: %+v", p)
	}
}

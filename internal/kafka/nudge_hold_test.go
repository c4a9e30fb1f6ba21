package kafka

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestNudgesEndWhereTheBacklogIsReal(t *testing.T) {
	before := Progress{Start: 5, Below: 5, Left: 1, End: 9}
	for _, c := range []struct {
		name   string
		then   Progress
		within time.Duration // is nudged by then, and not in the half of it
	}{
		{"answered, and as much is left: a task of hours", Progress{5, 5, 1, 10}, nudgeDoubt},
		{"not answered: all are busy", Progress{5, 5, 2, 10}, nudgeDoubt},
		{"other tasks came and are done", Progress{5, 5, 1, 12}, nudgePauses},
		{"other tasks came and are not", Progress{5, 5, 4, 12}, nudgePauses},
		{"it was not taken", before, nudgePause},
	} {
		var n Nudger
		place, now := nudgePlace{"g", "t", 0}, time.Now()
		n.still(place, before, now)
		if !n.still(place, before, now) {
			t.Fatal("the first is not due")
		}
		l := n.seen[place]
		l.next(now)
		l.before = l.at
		n.still(place, c.then, now)
		if n.still(place, c.then, now.Add(c.within/2)) {
			t.Errorf("%s: nudged again within %v", c.name, c.within/2)
		}
		if !n.still(place, c.then, now.Add(c.within)) {
			t.Errorf("%s: not nudged after %v", c.name, c.within)
		}
	}
}

func TestANudgeIsDueAgainWhereSomethingMoved(t *testing.T) {
	for name, then := range map[string]Progress{
		"less is left":    {5, 5, 1, 10},
		"the start moved": {6, 6, 2, 10},
	} {
		var n Nudger
		place, now := nudgePlace{"g", "t", 0}, time.Now()
		before := Progress{5, 5, 2, 9}
		n.still(place, before, now)
		n.still(place, before, now)
		l := n.seen[place]
		l.next(now)
		l.before = l.at
		now = now.Add(nudgePause)
		if n.still(place, then, now) {
			t.Errorf("%s: nudged at once", name)
		}
		if !n.still(place, then, now) {
			t.Errorf("%s: not nudged", name)
		}
	}
}

func TestNoNudgeWhereThereIsNoPartition(t *testing.T) {
	var n Nudger
	for range 3 { // a topic that was made again, with fewer
		if n.still(nudgePlace{"g", "t", 7}, Progress{Start: 5, Below: 5, Left: 1, End: -1}, time.Now()) {
			t.Error("nudged")
		}
	}
}

func TestANudgeThatKafkaDoesNotAnswerHoldsUpNothing(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asked, end := make(chan struct{}), make(chan struct{})
	answer := sync.OnceFunc(func() { close(end) })
	defer answer()
	var first sync.Once // others are answered
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		first.Do(func() {
			close(asked)
			c.SleepControl(func() { <-end })
		})
		return nil, nil, false
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- send(ctx, cl, []*kgo.Record{{Topic: "t", Partition: 1}}) }()
	within := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(time.Minute):
			t.Fatal(what)
		}
	}
	within("it was not asked for", asked)
	cancel()
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}()
	within("it waits for the answer", returned)
	if n := cl.BufferedProduceRecords(); n != 0 {
		t.Errorf("%d records stay with the client that has others", n)
	}
	answer() // to nobody
	if err := send(t.Context(), cl, []*kgo.Record{{Topic: "t", Partition: 1}}); err != nil {
		t.Errorf("the next: %v", err)
	}
}

package relay

// What a task looks like on the other side, and what is written on the way.

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestARowBecomesARecord(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.run(g.relay("a", nil))
	id := one[int64](g, `insert into perdure.outbox (kind, queue, key, payload, headers, deadline)
		values ('pay', 'payments', 'k1', '{"a":1}', '{"tenant":"t9","traceparent":"00-1-2-01"}', now() + interval '1 hour') returning id`)
	rec := g.first(1, g.names.Tasks("payments"))[0]

	if string(rec.Key) != "k1" || string(rec.Value) != `{"a":1}` {
		t.Errorf("key %q, value %q", rec.Key, rec.Value)
	}
	if want := kafka.PartitionOf([]byte("k1"), 4); rec.Partition != want {
		t.Errorf("on partition %d, Java's partitioner chooses %d", rec.Partition, want)
	}
	for name, want := range map[string]string{
		schemas.HeaderID: schemas.ID{Source: "main", Generation: 1, Seq: id}.String(), schemas.HeaderType: "pay",
		schemas.HeaderOrder: "key", schemas.HeaderPartitionKey: "k1", schemas.HeaderContentType: "application/json",
		schemas.HeaderTraceParent: "00-1-2-01", "tenant": "t9", schemas.HeaderEpoch: "",
	} {
		if got := header(rec, name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}

	g.drained(5 * time.Second)
	hop, batch, ok, err := relaylog.Find(t.Context(), g.db, id)
	if err != nil || !ok {
		t.Fatalf("the relay log has no hop of %d: %v", id, err)
	}
	if hop.Topic != rec.Topic || hop.Partition != rec.Partition || hop.Offset != rec.Offset || batch.Tasks != 1 || batch.Replays != 0 {
		t.Errorf("logged as %+v in %+v, lies at %s/%d@%d", hop, batch, rec.Topic, rec.Partition, rec.Offset)
	}
}

func TestAReplayKeepsItsTaskID(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.run(g.relay("a", nil))
	id := one[int64](g, `insert into perdure.outbox (kind, queue, task_id, epoch, payload) values ('post', 'mail', 'main-1-77', 3, '{}') returning id`)
	rec := g.first(1, g.names.Tasks("mail"))[0]
	if got := header(rec, schemas.HeaderID); got != "main-1-77" || string(rec.Key) != got || header(rec, schemas.HeaderEpoch) != "3" {
		t.Errorf("id %q, key %q, epoch %q", got, rec.Key, header(rec, schemas.HeaderEpoch))
	}
	if header(rec, schemas.HeaderOrder) != "" {
		t.Error("a kind without order is marked as ordered")
	}
	g.drained(5 * time.Second)
	if _, batch, ok, err := relaylog.Find(t.Context(), g.db, id); err != nil || !ok || batch.Tasks != 0 || batch.Replays != 1 {
		t.Errorf("logged in %+v, %v, %v", batch, ok, err)
	}
}

// Passes that find a handful of tasks follow each other no faster than the pace.
func TestSmallPassesKeepAPace(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const pace = 100 * time.Millisecond
	g.run(g.relay("a", func(c *Config) { c.Pace = pace }))
	n := 0
	began := time.Now()
	for ; time.Since(began) < time.Second; n++ {
		g.enqueue("k", n)
		time.Sleep(pace / (handful / 2)) // half a handful within a pace, or fewer
	}
	g.drained(10 * time.Second)
	most := int(time.Since(began)/pace) + 2
	if passes := one[int](g, `select count(*) from perdure.relay_log`); passes > most {
		t.Errorf("%d tasks in a second went in %d passes, want %d at most", n, passes, most)
	}
	g.first(n, g.names.Tasks("payments"))
}

func TestAnEmptyPassWritesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", func(c *Config) { c.Idle = time.Millisecond; c.LeaseTTL = time.Minute })
	passes := make(chan struct{}, 1000)
	r.seams.beforeRead = func(_ context.Context, _ *term) error { passes <- struct{}{}; return nil }
	r.seams.unchanged = func() { passes <- struct{}{} }
	g.run(r)
	for range 5 { // made ahead, settled
		<-passes
	}
	before := one[string](g, `select xmin::text from perdure.relay_cursor`)
	for range 5 {
		<-passes
	}
	if after := one[string](g, `select xmin::text from perdure.relay_cursor`); after != before {
		t.Errorf("5 empty passes wrote the cursor: xmin %s, then %s", before, after)
	}
	if n := one[int](g, `select count(*) from perdure.relay_log`); n != 0 {
		t.Errorf("%d rows in the relay log", n)
	}
}

// While nobody writes, a pass asks for the snapshot alone. Whatever changes it is
// looked at: also a commit that is older than the newest one.
func TestAnIdleRelayReadsNothing(t *testing.T) {
	g := newRig(t)
	r := g.relay("a", func(c *Config) { c.Idle = time.Millisecond; c.LeaseTTL = time.Minute })
	var reads, same atomic.Int64
	r.seams.beforeRead = func(context.Context, *term) error { reads.Add(1); return nil }
	r.seams.unchanged = func() { same.Add(1) }
	g.run(r)
	late := g.begin()
	id := g.enqueueIn(late, "late", 1)
	other := g.begin()
	otherID := g.enqueueIn(other, "other", 1)
	idle := func() {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, func() (bool, string) {
			began, before := reads.Load(), same.Load()
			for same.Load() < before+3 {
				time.Sleep(time.Millisecond)
			}
			return reads.Load() == began, fmt.Sprintf("%d reads while nothing changed", reads.Load()-began)
		})
	}
	idle()
	var want []string
	for _, x := range []struct {
		tx pgx.Tx
		id int64
	}{{other, otherID}, {late, id}} {
		g.commit(x.tx)
		want = append(want, fmt.Sprintf("main-1-%d", x.id))
		var got []string
		for _, rec := range g.first(len(want), g.names.Tasks("payments")) {
			got = append(got, header(rec, schemas.HeaderID))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		idle()
	}
}

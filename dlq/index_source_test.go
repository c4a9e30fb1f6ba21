package dlq

// Two sources on one Kafka: each index keeps its own, all of it, and what is nobody's.

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

func TestEachSourceIndexesItsOwnLetters(t *testing.T) {
	a := newRig(t)
	pool, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b := *a
	b.db, b.deps.DB = pool, pool
	for source, r := range map[string]*rig{"main": a, "billing-eu": &b} {
		x, err := NewIndex(Config{Source: source, PruneEvery: time.Hour}, r.deps)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	topic := a.names.DLQ("payments")
	for n := range 20 { // over both partitions
		id := string(rune('1' + n%9))
		a.produce(topic, Encode(letterOf("main-1-1"+id, n)), Encode(letterOf("billing-eu-1-1"+id, n)))
	}
	a.produce(topic, &kgo.Record{Key: []byte("k"), Value: []byte("garbage")}, Resolved("billing-eu-1-9", "billing-eu-1-9", 1, time.Now()))
	for source, r := range map[string]*rig{"main": a, "billing-eu": &b} {
		r.eventually(20, `select count(*) from perdure.dead_letters where task_id like $1`, source+"-1-%")
		r.eventually(1, `select count(*) from perdure.dead_letters where task_id is null`) // the garbage: whose it is nobody knows
		if n := r.count(`select count(*) from perdure.dead_letters`); n != 21 {
			t.Errorf("%s has %d letters, want its 20 and the garbage", source, n)
		}
	}
	// The same seq holds a key in both: each is given back by its own task's end.
	if _, err := b.db.Exec(t.Context(), `update perdure.source set source = 'billing-eu'`); err != nil {
		t.Fatal(err)
	}
	a.hold("k", 5)
	b.hold("k", 5)
	a.produce(a.names.Events("payments"), endOf("billing-eu-1-5"))
	b.eventually(0, heldKeys)
	if n := a.count(heldKeys); n != 1 {
		t.Errorf("main holds %d keys, want its own", n)
	}
	a.produce(a.names.Events("payments"), endOf("main-1-5"))
	a.eventually(0, heldKeys)
	b.eventually(1, `select count(*) from perdure.resolutions`)
	if n := a.count(`select count(*) from perdure.resolutions`); n != 0 {
		t.Errorf("main keeps %d resolutions of the other source", n)
	}
}

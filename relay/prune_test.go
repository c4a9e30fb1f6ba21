package relay

// What nobody asks for any more goes; nothing else does.

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestLogAndKeysArePruned(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`insert into perdure.relay_log (shard, relayed_at, first_id, last_id, tasks, replays, hops)
		select 'main', now() - (n || ' minutes')::interval, n, n, 1, 0, '' from generate_series(1, 12000) n`)
	g.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires)
		select 's', n::text, n, 1, '', now() + ((n - 6000.5) || ' minutes')::interval from generate_series(1, 12000) n`)
	// What is held until its task is completed goes when that is given back, not before.
	g.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) values ('held', 'k', 12001, 1, '', 'infinity')`)
	r := g.relay("a", func(c *Config) { c.History = time.Hour })
	if err := r.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := one[int](g, `select count(*) from perdure.relay_log`); n < 58 || n > 60 {
		t.Errorf("%d rows of the relay log are left, want an hour's", n)
	}
	if n := one[int](g, `select count(*) from perdure.unique_keys`); n != 6001 {
		t.Errorf("%d keys are left, want 6001", n)
	}
	if n := one[int](g, `select perdure.release_unique(array['main-1-12001'])`); n != 1 || one[int](g, `select count(*) from perdure.unique_keys`) != 6000 {
		t.Errorf("%d keys were given back, want 1", n)
	}
}

func TestTaskTopicsAreTrimmedBelowWhatIsCommitted(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	topic := g.names.Tasks("mail")
	var recs []*kgo.Record
	for n := range 10 {
		recs = append(recs, &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Append(nil, n)})
	}
	g.produce(recs...)
	p := recs[0].Partition
	r := g.relay("a", nil)
	start := func() int64 {
		s, err := g.adm.ListStartOffsets(context.Background(), topic)
		if err != nil {
			t.Fatal(err)
		}
		o, _ := s.Lookup(topic, p)
		return o.Offset
	}
	trim := func(age time.Duration) int64 {
		if err := r.trimTopics(t.Context(), g.adm, g.names.WorkerGroup("mail"), age, topic); err != nil {
			t.Fatal(err)
		}
		return start()
	}
	if at := trim(-time.Hour); at != 0 {
		t.Errorf("trimmed to %d although no worker has committed", at)
	}
	done := kadm.Offsets{}
	done.AddOffset(topic, p, 6, -1)
	if _, err := g.adm.CommitOffsets(t.Context(), g.names.WorkerGroup("mail"), done); err != nil {
		t.Fatal(err)
	}
	if at := trim(time.Hour); at != 0 {
		t.Errorf("trimmed to %d although all is young", at)
	}
	if at := trim(-time.Hour); at != 6 {
		t.Errorf("trimmed to %d, want what is committed: 6", at)
	}
	if err := r.trim(t.Context(), g.adm); err != nil {
		t.Error(err)
	}
}

package dispatcher

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/internal/tracker"
	"github.com/perdure/perdure/schemas"
)

func TestDesiredWorkersFollowTheRates(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds int, tasks int64, workers int, produced, committed int64) sample {
		return sample{at: start.Add(time.Duration(seconds) * time.Second), tasks: tasks, workers: workers, produced: produced, committed: committed}
	}
	type step struct {
		sample
		desired int
	}
	for name, steps := range map[string][]step{
		"idle":                                {{at(0, 0, 0, 5, 5), 0}, {at(10, 0, 0, 5, 5), 0}},
		"nobody runs and one task waits":      {{at(0, 1, 0, 6, 5), 1}, {at(10, 1, 0, 6, 5), 1}},
		"not known yet":                       {{at(0, 500, 3, 500, 0), 3}},
		"steady: as many as there are":        {{at(0, 10, 4, 1000, 990), 4}, {at(10, 10, 4, 5000, 4990), 5}, {at(20, 0, 4, 9000, 9000), 4}},
		"half the load: half the workers":     {{at(0, 0, 4, 0, 0), 0}, {at(10, 0, 4, 4000, 4000), 4}, {at(20, 0, 4, 6000, 6000), 2}, {at(30, 0, 2, 6000, 6000), 0}},
		"a backlog: more":                     {{at(0, 0, 2, 0, 0), 0}, {at(10, 6000, 2, 8000, 2000), 8}},
		"nothing gets done: no more":          {{at(0, 50, 2, 50, 0), 2}, {at(10, 5000, 2, 5000, 0), 2}},
		"not more than partitions":            {{at(0, 0, 1, 0, 0), 0}, {at(10, 90_000, 1, 100_000, 10_000), 8}},
		"slower work is learned from backlog": {{at(0, 0, 1, 0, 0), 0}, {at(10, 0, 1, 1000, 1000), 1}, {at(20, 900, 1, 2000, 1100), 3}},
	} {
		var r rates
		for i, s := range steps {
			if got := r.next(s.sample, 8); got.DesiredWorkers != s.desired || got.BacklogTasks != s.tasks || got.Running != s.workers {
				t.Errorf("%s, step %d: %+v, want %d workers", name, i, got, s.desired)
			}
		}
	}
}

func TestBacklogIsCountedWhereItWaits(t *testing.T) {
	ctx := t.Context()
	k := testkit.Kafka(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	db, err := pg.Pool(ctx, testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cat, err := schemas.ParseCatalog("c.yaml", []byte("version: 1\nqueues: {q: {partitions: 2}, other: {}}\nkinds: {k: {queue: q}}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ApplyCatalog(ctx, db, cat, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	names := kafka.Names{Prefix: k.Prefix}
	s := newScaling(db, cat, adm, names)
	expect := func(tasks int64, youngest, oldest float64) {
		t.Helper()
		s.queues["q"].answered = time.Time{}
		got, away, err := s.signal(ctx, "q")
		if err != nil {
			t.Fatal(away, err)
		}
		if got.BacklogTasks != tasks || got.OldestSeconds < youngest || got.OldestSeconds > oldest || (got.DesiredWorkers == 0) != (tasks == 0) || got.Running != 0 {
			t.Fatalf("%+v, want %d tasks, the oldest of %v to %v s", got, tasks, youngest, oldest)
		}
	}
	expect(0, 0, 0) // the topic is not even there

	// In Postgres: a bundle that is relayed, a row that is not; due and parked ones.
	exec := func(query string) {
		t.Helper()
		if _, err := db.Exec(ctx, query); err != nil {
			t.Fatal(err)
		}
	}
	exec(`insert into perdure.outbox (id, kind, queue, payload, ends) values (999, 'k', 'q', '123', '{1,2,3}')`)
	expect(3, 0, 30)
	exec(`insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline) values ('main', 1, pg_current_snapshot(), '', 0, '')`)
	expect(0, 0, 0)
	exec(`insert into perdure.outbox (kind, queue, payload, created_at) values ('k', 'q', '1', now() - interval '50 s'), ('k', 'other', '1', now())`)
	exec(`insert into perdure.outbox (kind, queue, payload, run_at) values ('k', 'q', '1', now() + interval '1 h')`)
	expect(1, 50, 80)
	exec(`insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked)
		select 1000 + i, now() + (i * interval '1 h'), 1, 0, now(), 'k', 'q', '', '', false from unnest(array[-1, 1]) i`)
	exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked) values (1, '', 1, 0, now(), 'k', 'q', '', '', false)`)
	expect(3, 3600, 3700)
	exec(`delete from perdure.scheduled`)
	exec(`delete from perdure.parked`)
	exec(`update perdure.relay_cursor set prev = pg_current_snapshot()`)
	expect(0, 0, 0)

	// In Kafka: 10 records, 4 of them committed.
	topic := names.Tasks("q")
	if _, err := adm.CreateTopic(ctx, 2, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		age := 100 - 10*i // seconds
		r := &kgo.Record{Topic: topic, Value: []byte("1"), Timestamp: time.Now().Add(-time.Duration(age) * time.Second)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if i < 4 {
			o := kadm.Offsets{}
			o.AddOffset(topic, r.Partition, r.Offset+1, -1)
			if err := adm.CommitAllOffsets(ctx, names.WorkerGroup("q"), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect(6, 50, 80)
	exec(`insert into perdure.outbox (kind, queue, payload) values ('k', 'q', '1')`)
	expect(7, 50, 80)

	// One of them is slow, and all behind it in its partition are done.
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	committed, err := adm.FetchOffsets(ctx, names.WorkerGroup("q"))
	if err != nil {
		t.Fatal(err)
	}
	topics, err := adm.ListTopics(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	left := int64(7)
	ends.Each(func(end kadm.ListedOffset) {
		c, ok := committed.Lookup(topic, end.Partition)
		if !ok || c.At < 1 || end.Offset < c.At+2 {
			return
		}
		tr, err := tracker.New(c.At, "", topics[topic].ID)
		if err != nil {
			t.Fatal(err)
		}
		for at := c.At; at < end.Offset; at++ {
			if tr.Deliver(at, 0); at > c.At {
				tr.Ack(at)
			}
		}
		said, _ := tr.Commit()
		o := kadm.Offsets{}
		o.Add(kadm.Offset{Topic: topic, Partition: end.Partition, At: said.Offset, LeaderEpoch: -1, Metadata: said.Metadata})
		if err := adm.CommitAllOffsets(ctx, names.WorkerGroup("q"), o); err != nil {
			t.Fatal(err)
		}
		left -= end.Offset - c.At - 1
	})
	if left == 7 {
		t.Fatal("no partition has two records that are not committed")
	}
	expect(left, 0, 80)
}

func TestScalingSaysWhoIsAway(t *testing.T) {
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cat, err := schemas.ParseCatalog("c.yaml", []byte("version: 1\nqueues: {q: {}}\nkinds: {k: {queue: q}}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, away, err := newScaling(db, cat, nil, kafka.Names{}).signal(t.Context(), "q"); away != "Kafka" || err == nil {
		t.Errorf("%s %v", away, err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"), kgo.RetryTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, away, err := newScaling(db, cat, kadm.NewClient(cl), kafka.Names{}).signal(ctx, "q"); away != "Kafka" || err == nil {
		t.Errorf("%s %v", away, err)
	}
	db.Close()
	if _, away, err := newScaling(db, cat, kadm.NewClient(cl), kafka.Names{}).signal(t.Context(), "q"); away != "Postgres" || err == nil {
		t.Errorf("%s %v", away, err)
	}
}

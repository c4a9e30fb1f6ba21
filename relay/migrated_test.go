package relay

// The schema moves forward under what an older release left and others still write.

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// olderVersion is the last before letters were counted by group, tasks shared rows
// of the outbox, and a relay said that it knows them.
const olderVersion = 39

// What a relay of that version leaves when it stops: tasks that it filed, a cursor
// behind them, tasks that it has not seen; and letters, and what people said of them.
var olderRows = []string{
	`insert into perdure.queues (queue, settings) values ('payments', '{}')`,
	`insert into perdure.kinds (kind, queue, ordered, effects, settings, catalog) values ('pay', 'payments', true, 'idempotent', '{}', 'c')`,
	`select perdure.enqueue(kind => 'pay', payload => jsonb_build_object('n', i), key => 'x-due', run_at => now() + interval '2 s') from generate_series(1, 5) i`,
	`select perdure.enqueue(kind => 'pay', payload => jsonb_build_object('n', i), key => 'x-later', run_at => now() + interval '1 day') from generate_series(1, 5) i`,
	`select perdure.enqueue(kind => 'pay', payload => jsonb_build_object('n', i), key => 'k-old') from generate_series(1, 50) i`,
	`insert into perdure.scheduled (id, due, generation, epoch, created_at, deadline, kind, queue, key, task_id, content_type, headers, payload, checked)
	 select id, run_at, generation, epoch, created_at, deadline, kind, queue, key, task_id, content_type, headers, payload, checked from perdure.outbox where run_at is not null`,
	`insert into perdure.parked (id, why, generation, epoch, created_at, deadline, kind, queue, key, task_id, content_type, headers, payload, checked)
	 select id, 'the topic was away', generation, epoch, created_at, deadline, kind, queue, key, task_id, content_type, headers, payload, checked from perdure.outbox where run_at is null`,
	`insert into perdure.held (id, was, generation, epoch, created_at, kind, queue, content_type, payload, checked)
	 values (-1, 'outbox', 1, 0, now(), 'pay', 'payments', 'application/json', '{}', true)`,
	`insert into perdure.relay_lease (shard, owner, fence, until) values ('main', 'older', 7, now())`,
	`insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline)
	 select 'main', 7, pg_current_snapshot(), system_identifier::text, (select oid from pg_database where datname = current_database()),
	   left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) from pg_control_system()`,
	`select perdure.enqueue(kind => 'pay', payload => jsonb_build_object('n', 50 + i), key => 'k-old', idempotency_key => 'once-' || i) from generate_series(1, 200) i`,
	fmt.Sprintf(olderLetters, "'old-' || i", "generate_series(1, 20000) i"),
	`insert into perdure.failure_groups (fingerprint, state, who) values ('cause 7', 'acknowledged', 'ann')`,
}

const (
	olderLetters = `insert into perdure.dead_letters
	 (letter, kind, queue, state, reason, fingerprint, release, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, payload)
	 select %s, 'pay', 'payments', (array['open', 'resolved', 'discarded', 'held'])[1 + i %% 4], 'permanent', 'cause ' || i %% 50, 'r' || i %% 3,
	   'tasks.payments', 0, i, 'dlq.payments', 0, i, now() - i * interval '1 s', '{}' from %s`
	// By either side letters of a group that the other has not.
	miscounted = `
with l as (select fingerprint, state, coalesce(kind, '') as kind, queue, reason, count(*) as n from perdure.dead_letters group by 1, 2, 3, 4, 5),
g as (select fingerprint, state, kind, queue, reason, n from perdure.groups_now)
select (select count(*) from (table l except table g) a) + (select count(*) from (table g except table l) b)`
)

// beside repeats do on a connection of its own until end, and keeps the longest time
// that one took: who writes while the schema moves waits for it, and never fails.
type beside struct {
	g       *rig
	stop    atomic.Bool
	done    atomic.Int64
	longest atomic.Int64 // ns
	wg      sync.WaitGroup
}

func (b *beside) repeat(do func(ctx context.Context, conn *pgx.Conn, n int) error) {
	conn, err := pgx.Connect(b.g.t.Context(), b.g.url)
	if err != nil {
		b.g.t.Fatal(err)
	}
	b.wg.Go(func() {
		defer conn.Close(context.Background())
		for n := 1; !b.stop.Load(); n++ {
			began := time.Now()
			if err := do(context.Background(), conn, n); err != nil {
				b.g.t.Errorf("beside the migration: %v", err)
				return
			}
			b.done.Add(1)
			for took := int64(time.Since(began)); ; {
				if was := b.longest.Load(); took <= was || b.longest.CompareAndSwap(was, took) {
					break
				}
			}
		}
	})
}

func (b *beside) reach(n int64) {
	b.g.t.Helper()
	testkit.Eventually(b.g.t, time.Minute, func() (bool, string) {
		return b.done.Load() >= n || b.g.t.Failed(), fmt.Sprintf("%d of %d", b.done.Load(), n)
	})
}

func (b *beside) end() {
	b.stop.Store(true)
	b.wg.Wait()
}

func TestMigratesUnderTasksInFlight(t *testing.T) {
	db := testkit.Postgres(t)
	if err := pg.MigrateTo(t.Context(), db.URL, testkit.MigratedSource, olderVersion); err != nil {
		t.Fatal(err)
	}
	g := newRigOn(t, db.URL)
	for _, sql := range olderRows {
		g.exec(sql)
	}

	producers, letters := &beside{g: g}, &beside{g: g}
	defer producers.end()
	defer letters.end()
	for p := range 4 {
		producers.repeat(func(ctx context.Context, conn *pgx.Conn, n int) error {
			_, err := conn.Exec(ctx, `select perdure.enqueue(kind => 'pay', payload => jsonb_build_object('n', $1::int), key => $2, idempotency_key => $3)`,
				n, fmt.Sprint("k-", p), fmt.Sprintf("%d/%d", p, n))
			return err
		})
	}
	letters.repeat(func(ctx context.Context, conn *pgx.Conn, n int) error {
		if n%3 == 0 {
			_, err := conn.Exec(ctx, `update perdure.dead_letters set state = 'resolved' where letter = $1`, fmt.Sprint("old-", n))
			return err
		}
		_, err := conn.Exec(ctx, fmt.Sprintf(olderLetters, "'new-' || i", "(values ($1::int)) v(i)"), n)
		return err
	})
	late := g.begin() // one that has written, and that the change of the outbox must wait for
	lateID := g.enqueueIn(late, "x-late", 1)
	producers.reach(100)

	began := time.Now()
	migrated := make(chan error, 1)
	go func() { migrated <- pg.Migrate(context.Background(), db.URL, testkit.MigratedSource) }()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return one[bool](g, `select exists (select from pg_locks where not granted and relation = 'perdure.outbox'::regclass)`), "the migration does not wait"
	})
	g.commit(late)
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	producers.reach(producers.done.Load() + 100)
	letters.reach(letters.done.Load() + 10)
	producers.end()
	letters.end()
	t.Logf("migrated in %v beside %d tasks, whose producers waited %v at most, and %d writes of letters, %v at most", took.Round(time.Millisecond),
		producers.done.Load(), time.Duration(producers.longest.Load()).Round(time.Millisecond), letters.done.Load(), time.Duration(letters.longest.Load()).Round(time.Millisecond))
	if most := time.Duration(producers.longest.Load()); most > 10*time.Second {
		t.Errorf("a producer waited for %v", most)
	}

	again := one[int64](g, `select perdure.enqueue(kind => 'pay', payload => jsonb_build_object('n', 51), key => 'k-old', idempotency_key => 'once-1')`)
	if first := one[int64](g, `select min(id) from perdure.outbox where key = 'k-old' and convert_from(payload, 'UTF8')::jsonb @> '{"n": 51}'`); again != first {
		t.Errorf("a key of before made a second task: %d, %d before", again, first)
	}
	g.run(g.relay("newer", nil))
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := one[int](g, `select (select count(*) from perdure.parked) + (select count(*) from perdure.scheduled where key = 'x-due')`)
		return n == 0, fmt.Sprintf("%d filed tasks have not left", n)
	})
	g.right()
	times := map[int64]int{}
	for _, s := range g.sent() {
		times[s.id]++
	}
	if want := 5 + 50 + 200 + int(producers.done.Load()) + 2; len(times) != want || times[lateID] != 1 { // the late one and right's last
		t.Errorf("%d tasks on Kafka, want %d", len(times), want)
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("task %d is on Kafka %d times", id, n)
		}
	}
	if n := one[int](g, `select count(*) from perdure.scheduled`); n != 5 || heldSeqs(g) != "-1" {
		t.Errorf("%d tasks are scheduled for tomorrow, held are %q; want 5 and -1", n, heldSeqs(g))
	}
	writes := letters.done.Load()
	if n := one[int64](g, `select count(*) from perdure.dead_letters`); n != 20000+writes-writes/3 {
		t.Errorf("%d letters, want %d", n, 20000+writes-writes/3)
	}
	if n := one[int64](g, fmt.Sprintf(`select count(*) from generate_series(3, %d, 3) n join perdure.dead_letters on letter = 'old-' || n where state <> 'resolved'`, writes)); n != 0 {
		t.Errorf("%d letters are not what was written of them while the schema moved", n)
	}
	if n := one[int](g, miscounted); n != 0 {
		t.Errorf("%d counts of groups are wrong", n)
	}
	if state := one[string](g, `select perdure.group_state(f) from perdure.failure_groups f`); state != "acknowledged" {
		t.Errorf("what was said of a group became %q", state)
	}
}

package relay

// Many tasks that are due at once: they go out a share at a time, and nobody else
// waits for more than one share.

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// fileDue puts n tasks of kind post into perdure.scheduled, due at once.
func (g *rig) fileDue(n int) {
	g.t.Helper()
	g.exec(`insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked)
		select nextval('perdure.outbox_id_seq'), date_trunc('second', now()) - interval '1 s', 1, 0, now(), 'post', 'mail', 'application/json', convert_to(i::text, 'UTF8'), true
		from generate_series(1, $1::int) i`, n)
}

const released = `select coalesce(sum(tasks), 0) from perdure.relay_log where last_id <= $1`

// What is committed while a heap goes out waits for one share of it, also on the
// heap's own queue, and everything goes out once.
func TestWhatIsCommittedDuringAReleaseWaitsForOneShareOfIt(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const n = 20_000
	g.fileDue(n)
	heap := one[int64](g, `select max(id) from perdure.scheduled`)
	r := g.relay("a", nil)
	share := int64(r.cfg.Chunk / shareOfChunk)
	type task struct{ id, out int64 } // out: what was out of the heap when it was committed
	var live []task
	last := int64(0)
	r.seams.beforeRead = func(ctx context.Context, _ *term) error {
		out := one[int64](g, released, heap)
		if out-last > share {
			t.Errorf("%d tasks of the heap went out between two looks at the outbox, want %d at most", out-last, share)
		}
		if last = out; out == 0 || out == n {
			return nil
		}
		queue, kind := "mail", "post"
		if len(live)%2 == 0 {
			queue, kind = "payments", "pay"
		}
		live = append(live, task{one[int64](g, `insert into perdure.outbox (kind, queue, payload) values ($1, $2, '{}') returning id`, kind, queue), out})
		return nil
	}
	run := g.run(r)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		left := one[int](g, `select count(*) from perdure.scheduled`)
		return left == 0, fmt.Sprintf("%d are left", left)
	})
	g.drained(10 * time.Second)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if len(live) < n/int(share)-1 {
		t.Fatalf("%d tasks were committed during the release, want one a share", len(live))
	}
	for _, l := range live {
		before := one[int64](g, `select coalesce(sum(tasks), 0) from perdure.relay_log where last_id <= $1 and batch < (select batch from perdure.relay_log where first_id <= $2 and last_id >= $2)`, heap, l.id)
		if before-l.out > share {
			t.Errorf("%d tasks of the heap went out before task %d, which was committed after %d", before, l.id, l.out)
		}
	}
	want := n + len(live)
	times := map[string]int{}
	for _, rec := range g.records(time.Minute, func(r []*kgo.Record) bool { return len(r) >= want }, g.names.Tasks("mail"), g.names.Tasks("payments")) {
		times[header(rec, schemas.HeaderID)]++
	}
	if len(times) != want {
		t.Errorf("%d tasks have a record, want %d", len(times), want)
	}
	for id, k := range times {
		if k != 1 {
			t.Errorf("%s has %d records", id, k)
		}
	}
}

// An open snapshot keeps the index entries of what has gone out: they are not
// gone through again for each share.
func TestAReleaseDoesNotGoThroughWhatIsGone(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const n, share = 5000, 100
	g.fileDue(n)
	old := g.begin()
	if _, err := old.Exec(t.Context(), `select txid_current()`); err != nil {
		t.Fatal(err)
	}
	g.run(g.relay("a", func(c *Config) { c.Chunk = share * shareOfChunk }))
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		deleted := one[int64](g, `select n_tup_del from pg_stat_user_tables where relid = 'perdure.scheduled'::regclass`)
		return deleted == n, fmt.Sprintf("%d of %d are deleted, say the statistics", deleted, n)
	})
	if read := one[int64](g, `select idx_tup_read from pg_stat_user_indexes where indexrelid = 'perdure.scheduled_queue'::regclass`); read < n || read > 3*n {
		t.Errorf("%d entries of the index were read for %d tasks", read, n)
	}
}

// Large payloads: what is beyond a share's bytes is not read to be thrown away.
func TestAShareIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"scheduled", "parked"} {
		t.Run(table, func(t *testing.T) {
			g := newRig(t)
			columns, values := "due", "now()"
			if table == "parked" {
				columns, values = "why", "'test'"
			}
			g.exec(`insert into perdure.` + table + ` (` + columns + `, id, generation, epoch, created_at, kind, queue, content_type, payload, checked)
				select ` + values + `, i, 1, 0, now(), 'post', 'mail', 'application/json', convert_to(repeat('1', 1000), 'UTF8'), true from generate_series(1, 10) i`)
			g.exec(`select setval('perdure.outbox_id_seq', 10)`)
			g.run(g.relay("a", func(c *Config) { c.ChunkBytes = 2500 * shareOfChunk }))
			g.first(10, g.names.Tasks("mail"))
			testkit.Eventually(t, time.Minute, func() (bool, string) {
				got := one[string](g, `select coalesce(string_agg(tasks::text, ' ' order by batch), '') from perdure.relay_log`)
				return got == "3 3 3 1", fmt.Sprintf("batches of %s tasks of 1,000 bytes, want 3 3 3 1 of 2,500", got)
			})
		})
	}
}

// directly is a term whose statements the test calls one by one.
func (g *rig) directly(r *Relay) *term {
	g.t.Helper()
	ctx := g.t.Context()
	tm := &term{r: r, limit: r.cfg.Chunk, words: map[string]string{}, routes: map[string]*route{}, encoder: encoder{r: r}}
	var err error
	if tm.conn, err = r.connect(ctx); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { closeConn(tm.conn) })
	if tm.is, err = r.identify(ctx, tm.conn); err != nil {
		g.t.Fatal(err)
	}
	if _, err = tm.standby(ctx); err != nil {
		g.t.Fatal(err)
	}
	if tm.out, err = r.newProducer(newTopics(), kgo.ManualFlushing()); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(tm.out.close)
	tm.control = &control{r: r, cl: g.cl, is: tm.is}
	if err := tm.resume(ctx); err != nil {
		g.t.Fatal(err)
	}
	return tm
}

// A held task that is released may be due before what went out last.
func TestATaskFiledBehindWhatWentOutIsFoundAMinuteLater(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.directly(g.relay("a", nil))
	promote := func(want int) {
		t.Helper()
		if n, err := tm.promote(t.Context()); err != nil || n != want {
			t.Fatalf("%d went out, %v; want %d", n, err, want)
		}
	}
	g.fileDue(1)
	promote(1)
	g.fileDue(1)
	g.exec(`update perdure.scheduled set due = now() - interval '1 day'`)
	promote(0) // its entries are not gone through each time
	if tm.due.After(time.Now().Add(longestWait)) {
		t.Errorf("the next look is in %v", time.Until(tm.due))
	}
	tm.wholeAt = tm.wholeAt.Add(-longestWait)
	promote(1)
}

// A heap of one queue leaves in turns with what is due of others, however much later
// that is due.
func TestAnotherQueuesDueTaskWaitsForOneShareOfAHeap(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const share = 100
	tm := g.directly(g.relay("a", func(c *Config) { c.Chunk = share * shareOfChunk }))
	g.fileDue(20 * share) // of mail, a second ago
	promote := func(want int) {
		t.Helper()
		if n, err := tm.promote(t.Context()); err != nil || n != want {
			t.Fatalf("%d went out, %v; want %d", n, err, want)
		}
	}
	promote(share)
	g.exec(`insert into perdure.outbox (kind, queue, key, run_at, payload) select 'pay', 'payments', 'k', now() + interval '1500 ms', '{"n":1}' from generate_series(1, 3)`)
	if _, err := tm.pass(t.Context()); err != nil { // files them
		t.Fatal(err)
	}
	time.Sleep(1600 * time.Millisecond) // they are due
	promote(share/2 + 3)
	if left := one[int](g, `select count(*) from perdure.scheduled where queue = 'payments'`); left != 0 {
		t.Errorf("%d tasks of the other queue wait behind the heap", left)
	}
	promote(share) // alone again, it has all of it
	g.first(3, g.names.Tasks("payments"))
}

// In the middle of a release everything that has left would be gone through, and
// all others wait for that. Others' places are looked in front of all the same.
func TestOnlyAQueueInTheMiddleOfAReleaseKeepsItsPlace(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.directly(g.relay("a", func(c *Config) { c.Chunk = 10 * shareOfChunk }))
	promote := func(want int) {
		t.Helper()
		if n, err := tm.promote(t.Context()); err != nil || n != want {
			t.Fatalf("%d went out, %v; want %d", n, err, want)
		}
	}
	const pay = `insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked)
		values (nextval('perdure.outbox_id_seq'), now() + $1::interval, 1, 0, now(), 'pay', 'payments', 'application/json', '{"n":1}', true)`
	g.fileDue(20)
	g.exec(pay, "0")
	if err := tm.findScheduled(t.Context()); err != nil {
		t.Fatal(err)
	}
	promote(5 + 1) // of 10, each may have a half
	g.exec(pay, "-1 day")
	promote(10) // all of mail, as nothing else is known
	if err := tm.findScheduled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tm.scheduled["mail"].passed == theBeginning || tm.scheduled["payments"].passed != theBeginning {
		t.Errorf("it begins at %v and %v", tm.scheduled["mail"].passed, tm.scheduled["payments"].passed)
	}
	promote(5 + 1)
	promote(0)
	g.fileDue(1)
	if err := tm.findScheduled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tm.scheduled["mail"].passed != theBeginning {
		t.Errorf("the release is over, and it begins at %v", tm.scheduled["mail"].passed)
	}
}

// A chunk that was read ahead is filed after a share that left meanwhile.
func TestATaskFiledInFrontOfWhatWentOutIsLookedFor(t *testing.T) {
	at := time.Unix(1e9, 0)
	for after, want := range map[time.Duration]bool{-time.Second: true, 0: true, time.Second: false} {
		tm := &term{scheduled: map[string]*scheduled{}}
		q := tm.scheduledOf("mail")
		q.passed = place{pgtype.Timestamptz{Time: at, Valid: true}, 7}
		tm.filed(&delivery{rows: []row{{queue: "mail", due: at.Add(after)}}, fates: []fate{fateLater}})
		if again := q.passed == theBeginning; again != want || q.at.IsZero() {
			t.Errorf("due %v behind the place: from the beginning %v, at %v", after, again, q.at)
		}
	}
}

// What was checked before acceptance is filed without being read: so it must not
// die there, its letter would be without a payload.
func TestAScheduledTaskDiesWithItsPayload(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.run(g.relay("a", nil))
	const insert = `insert into perdure.outbox (kind, queue, run_at, headers, payload, checked) values ('post', 'mail', now() + interval '1500 ms', $1, $2, true)`
	g.exec(insert, `{"n":1}`, `{"what":"bad headers"}`)
	g.exec(insert, `{"n":"1"}`, `{"what":"well"}`)
	if rec := g.first(1, g.names.Tasks("mail"))[0]; string(rec.Value) != `{"what":"well"}` {
		t.Errorf("the record is %q", rec.Value)
	}
	if rec := g.first(1, g.names.DLQ("mail"))[0]; string(rec.Value) != `{"what":"bad headers"}` {
		t.Errorf("the letter is %q", rec.Value)
	}
}

func TestWhatIsDueIsReadByItsIndex(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`alter table perdure.scheduled set (autovacuum_enabled = off)`)
	conn, err := g.relay("a", nil).connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, state := range []struct{ name, sql string }{
		{"empty", `select 1`},
		{"never analyzed", `insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked)
			select i, now() + i * interval '1 s', 1, 0, now(), 'post', 'mail', 'application/json', repeat('x', 300)::bytea, true from generate_series(1, 20000) i`},
		{"analyzed", `analyze perdure.scheduled`},
	} {
		g.exec(state.sql)
		for name, x := range map[string]struct{ sql, types, args string }{
			"readDue": {readDue, "text, timestamptz, bigint, bigint, bigint", `'mail', '-infinity', 0, 2000, 2000000`},
			"nextDue": {nextDue, "text, timestamptz, bigint", `'mail', '-infinity', 0`},
		} {
			for _, mode := range []string{"generic", "custom"} {
				plan := planOf(t, conn, x.sql, mode, x.types, x.args)
				cond := plan[max(0, strings.Index(plan, "Index Cond")):]
				if !strings.Contains(plan, "using scheduled_queue") || strings.Contains(plan, "Sort") || !strings.Contains(cond, "due, id) >") ||
					(name == "readDue" && !strings.Contains(cond, "now())")) {
					t.Errorf("%s, %s, %s plan:\n%s", name, state.name, mode, plan)
				}
			}
		}
	}
}

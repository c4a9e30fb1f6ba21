package relay

// Rows that stand for several tasks: each of them goes its own way.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

const insertBundle = `insert into perdure.outbox (id, kind, queue, payload, ends, keys, checked) values ($1, $2, $3, $4, $5, $6, true)`

// writer is a pool or a transaction.
type writer interface {
	queryer
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// enqueueBundle writes tasks of kind pay, numbered from n on, in as few rows as ids
// that follow each other allow: the numbers are in the order of the ids.
func enqueueBundle(ctx context.Context, db writer, key string, n, tasks int) error {
	var ids []int64
	if err := db.QueryRow(ctx, `select array(select nextval('perdure.outbox_id_seq') from generate_series(1, $1::int))`, tasks).Scan(&ids); err != nil {
		return err
	}
	for len(ids) > 0 {
		run := 1
		for run < len(ids) && run < 64 && ids[run] == ids[run-1]+1 && ids[run]%partitionSize != 0 {
			run++
		}
		var payload []byte
		var ends []int32
		var keys []string
		for i := range run {
			payload = fmt.Appendf(payload, `{"key":%q,"n":%d}`, key, n+i)
			ends, keys = append(ends, int32(len(payload))), append(keys, key)
		}
		var err error
		if run == 1 {
			_, err = db.Exec(ctx, `insert into perdure.outbox (id, kind, queue, key, payload) values ($1, 'pay', 'payments', $2, $3)`, ids[0], key, payload)
		} else {
			_, err = db.Exec(ctx, insertBundle, ids[0], "pay", "payments", payload, ends, keys)
		}
		if err != nil {
			return err
		}
		ids, n = ids[run:], n+run
	}
	return nil
}

func (g *rig) bundle(key string, n, tasks int) {
	g.t.Helper()
	if err := enqueueBundle(context.Background(), g.db, key, n, tasks); err != nil {
		g.t.Fatal(err)
	}
}

// Chunks of any size, also of less than a bundle has; across partitions; and the log
// says of each task where it is.
func TestTasksOfABundleGoOutOneByOne(t *testing.T) {
	for _, chunk := range []int{1, 7, 50, 16000} {
		t.Run(fmt.Sprint("chunk ", chunk), func(t *testing.T) {
			t.Parallel()
			g := newRig(t)
			g.exec(`select setval('perdure.outbox_id_seq', $1)`, partitionSize-100)
			n := 0
			for i := range 12 {
				g.bundle("k1", n, 2+i*5)
				n += 2 + i*5
				g.enqueue("k1", n)
				n++
			}
			if rows := one[int](g, `select count(*) from perdure.outbox`); rows > 30 {
				t.Fatalf("%d rows for %d tasks", rows, n)
			}
			o, err := ReadOutbox(t.Context(), g.db, testkit.MigratedSource)
			if err != nil || o.Backlog != int64(n) {
				t.Errorf("the backlog is said to be %d, want %d: %v", o.Backlog, n, err)
			}
			r := g.relay("a", func(c *Config) { c.Chunk = chunk })
			most := 0
			r.seams.afterRead = func(_ context.Context, _ *term, w *window) error {
				most = max(most, len(w.rows))
				if w.full && w.end < w.rows[len(w.rows)-1].id {
					t.Errorf("the cursor would stand at %d, within the bundle that ends with %d", w.end, w.rows[len(w.rows)-1].id)
				}
				return nil
			}
			run := g.run(r)
			g.right()
			if err := run.stop(); err != nil {
				t.Fatal(err)
			}
			if most > chunk+64 {
				t.Errorf("a pass had %d tasks, the chunk is %d", most, chunk)
			}
			if logged := one[int](g, `select sum(tasks) from perdure.relay_log`); logged != n+1 {
				t.Errorf("the relay log has %d tasks, want %d", logged, n+1)
			}
			for _, a := range g.accepted() {
				if _, _, ok, err := relaylog.Find(t.Context(), g.db, a.id); !ok || err != nil {
					t.Errorf("id %d is not in the log: %v", a.id, err)
				}
			}
		})
	}
}

// A queue that takes nothing parks the tasks, not the row.
func TestABundleIsParkedTaskByTask(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("payments"))
	run := g.run(g.relay("a", nil))
	g.bundle("k", 0, 60)
	g.enqueue("k", 60)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := one[int](g, `select count(*) from perdure.parked where key = 'k'`)
		return n == 61, fmt.Sprintf("%d tasks are parked, want 61", n)
	})
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.adm.CreateTopic(t.Context(), 1, 1, nil, g.names.Tasks("payments")); err != nil {
		t.Fatal(err)
	}
	g.run(g.relay("b", nil))
	for i, rec := range g.first(61, g.names.Tasks("payments")) {
		if want := fmt.Sprintf(`{"key":"k","n":%d}`, i); string(rec.Value) != want || string(rec.Key) != "k" {
			t.Fatalf("record %d is %s of key %s, want %s", i, rec.Value, rec.Key, want)
		}
	}
}

// What a bundle carries for all of its tasks, and what it has for each.
func TestATaskOfABundleIsWhatItWouldBeAlone(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.run(g.relay("a", nil))
	g.exec(`insert into perdure.outbox (id, kind, queue, deadline, content_type, headers, payload, ends, keys, checked)
		values (11, 'post', 'mail', '2100-01-01', 'text/plain', '{"h": "v"}', 'onethree', '{3,3,8}', '{"",null,a key}', true)`)
	g.exec(`insert into perdure.outbox (id, kind, queue, payload, ends, checked) values (14, 'post', 'mail', '{}[]', '{2,4}', true)`)
	recs := g.first(5, g.names.Tasks("mail"))
	slices.SortFunc(recs, func(a, b *kgo.Record) int {
		return strings.Compare(header(a, schemas.HeaderID), header(b, schemas.HeaderID))
	})
	for i, want := range []string{"one", "", "three", "{}", "[]"} {
		rec := recs[i]
		if header(rec, schemas.HeaderID) != fmt.Sprintf("main-1-%d", 11+i) || string(rec.Value) != want {
			t.Errorf("task %d: %s %q, want %q", 11+i, header(rec, schemas.HeaderID), rec.Value, want)
		}
		if first := i < 3; first != (header(rec, "h") == "v") || first != (header(rec, schemas.HeaderExpiry) != "") || first != (header(rec, schemas.HeaderContentType) == "text/plain") {
			t.Errorf("task %d: headers %v", 11+i, rec.Headers)
		}
	}
	if string(recs[2].Key) != "a key" || string(recs[0].Key) == "a key" {
		t.Errorf("keys %q, %q", recs[0].Key, recs[2].Key)
	}
}

// A hand at the table can write what is no bundle: it harms nobody else.
func TestABundleThatIsNoneIsALetter(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.run(g.relay("a", nil))
	const letters = 4
	for i, ends := range [letters]string{"{5,2,10}", "{-1,10}", "{null,10}", "{11,10}"} {
		g.exec(`insert into perdure.outbox (id, kind, queue, payload, ends, checked) values ($1, 'pay', 'payments', '0123456789', $2::text::int[], true)`, 100+100*i, ends)
	}
	g.bundle("k", 1, 5)
	if recs := g.first(5, g.names.Tasks("payments")); len(recs) != 5 {
		t.Errorf("%d records, want the 5 that are right", len(recs))
	}
	for _, rec := range g.first(letters, g.names.DLQ("payments")) {
		if l, _, err := dlq.Decode(rec); err != nil || l.Reason != schemas.ReasonUndecodable || !strings.Contains(l.Message, "ends") || string(l.Value) != "0123456789" {
			t.Errorf("letter %+v, %v", l, err)
		}
	}
	g.drained(time.Minute)
}

// The columns are written together or not at all, and no bundle reaches into ids that
// its partition does not have.
func TestTheTableRefusesWhatNoReaderUnderstands(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, values := range []string{
		`(1, 'pay', 'payments', 'abc', '{3}', null)`,        // one task is no bundle
		`(1, 'pay', 'payments', 'abc', '{1,2}', null)`,      // bytes of nobody
		`(1, 'pay', 'payments', 'abc', '{1,3}', '{k}')`,     // a key missing
		`(999999, 'pay', 'payments', 'abc', '{1,3}', null)`, // the second is of the next partition
		`(1, 'pay', 'payments', 'abc', '{{1,3}}', null)`,
		`(1, 'pay', 'payments', 'abc', '[2:3]={1,3}', null)`,
		`(1, 'pay', 'payments', '', array_fill(0, '{65}'), null)`, // more than readers look for
	} {
		if _, err := g.db.Exec(t.Context(), `insert into perdure.outbox (id, kind, queue, payload, ends, keys) values `+values); err == nil || !strings.Contains(err.Error(), "outbox_bundle") {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// A relay of the release before would send a bundle as one task. It cannot take the
// lease of an outbox that may have any.
func TestAnOlderRelayCannotTakeTheLease(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const older = `insert into perdure.relay_lease as l (shard, owner, fence, until) values ('main', 'older', 1, clock_timestamp())
		on conflict (shard) do update set owner = excluded.owner, fence = l.fence + 1, until = excluded.until`
	refused := func(when string) {
		t.Helper()
		if _, err := g.db.Exec(t.Context(), older); err == nil || !strings.Contains(err.Error(), "older release") {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("in a new outbox")
	run := g.run(g.relay("a", nil))
	g.enqueue("k", 1)
	g.drained(time.Minute)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	refused("behind a relay that knows them")
	// One that had the lease when the schema was migrated keeps it, and nobody bundles
	// until it is gone.
	g.exec(`delete from perdure.relay_lease`)
	g.exec(`alter table perdure.relay_lease disable trigger relay_lease_taken`)
	g.exec(older)
	g.exec(`alter table perdure.relay_lease enable trigger relay_lease_taken`)
	g.exec(`update perdure.source set bundles = false`)
	g.exec(`update perdure.relay_lease set until = clock_timestamp() where owner = 'older'`) // as renewing does
	g.run(g.relay("b", nil))
	g.enqueue("k", 2)
	g.drained(time.Minute)
	if !one[bool](g, `select bundles from perdure.source`) {
		t.Error("bundles are not allowed under a relay that knows them")
	}
	refused("after a take-over")
}

// The view is the truth of the checkers: it says what the relay sends.
func TestTheViewAndTheRelayReadTheSame(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 0; n < 500; {
		tasks := 1 + rng.IntN(64)
		g.bundle([]string{"k1", "x"}[rng.IntN(2)], n, tasks)
		n += tasks
	}
	g.run(g.relay("a", func(c *Config) { c.Chunk = 100 }))
	g.right()
	rows, err := g.db.Query(t.Context(), `select id, row_id, key from perdure.outbox_tasks order by id`)
	if err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (struct{}, error) {
		var id, row int64
		var key string
		err := r.Scan(&id, &row, &key)
		if id <= last || row > id || row <= id-64 {
			t.Errorf("id %d of row %d after %d", id, row, last)
		}
		last = id
		return struct{}{}, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

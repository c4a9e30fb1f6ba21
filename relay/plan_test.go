package relay

// How the server finds the rows: by the index that the read is made for, whatever
// it knew of the outbox when it made its plan, and with how much history there is.

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// explain is the plan of a statement with the session's settings, made for no
// particular parameters (generic) or for these.
func explain(t *testing.T, conn *pgx.Conn, sql string, generic bool, types, args string) string {
	t.Helper()
	mode := "custom"
	if generic {
		mode = "generic"
	}
	return planOf(t, conn, sql, mode, types, args)
}

func planOf(t *testing.T, conn *pgx.Conn, sql, mode, types, args string) string {
	t.Helper()
	for _, q := range []string{`set plan_cache_mode = force_` + mode + `_plan`, `deallocate all`, `prepare p (` + types + `) as ` + sql} {
		if _, err := conn.Exec(context.Background(), q, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	rows, err := conn.Query(context.Background(), `explain execute p(`+args+`)`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), "Seq Scan on outbox_id_seq", "a look at the sequence")
}

func TestReadsUseTheIndexMadeForThem(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`alter table perdure.outbox_p0000000000 set (autovacuum_enabled = off)`)
	r := g.relay("a", nil)
	conn, err := r.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	g.exec(`insert into perdure.relay_cursor (shard, fence, prev, upto, system_id, database, timeline) values ('main', 1, '3:3:', '9:9:', '', 1, '')`)
	for _, state := range []struct{ name, sql string }{
		{"an empty outbox", `select 1`},
		{"never analyzed", `insert into perdure.outbox (kind, queue, payload) select 'pay', 'payments', repeat('x', 300)::bytea from generate_series(1, 20000)`},
		{"analyzed", `analyze perdure.outbox`},
	} {
		g.exec(state.sql)
		for _, generic := range []bool{true, false} {
			for name, x := range map[string]struct {
				sql, types, args string
				leaves           int // that are opened, the overflow partition among them
			}{
				"window":             {r.sql.window, "text, bigint, tid, boolean, bigint, bigint", `'main', 1, '(0,1)', false, 100, 999999`, 2},
				"behind":             {r.sql.behind, "text, bigint, bigint, bigint", `'main', 1, 100, 999999`, 2},
				"bounds":             {r.sql.bounds, "text, bigint, tid, bigint", `'main', 1, '(0,1)', 100`, 17},
				"behind a large one": {r.sql.boundsBehind, "text, bigint", `'main', 1`, 17},
			} {
				plan := explain(t, conn, x.sql, generic, x.types, x.args)
				if strings.Count(plan, "_xid_id_idx") != strings.Count(plan, "Index Cond: ((xid >=")+strings.Count(plan, "Index Cond: (xid = ") || strings.Count(plan, "_xid_id_idx") != 2*x.leaves || strings.Contains(plan, "outbox_p0000000000_pkey") || strings.Contains(plan, "Seq Scan on outbox") {
					t.Errorf("%s, %s (generic: %v):\n%s", name, state.name, generic, plan)
				}
			}
		}
		plan := explain(t, conn, r.sql.rest, false, "text, bigint, tid, bigint, bigint, bigint", `'main', 1, '(0,1)', 16000, 100, 64100`) // it is always planned for its ids
		if !strings.Contains(plan, "outbox_p0000000000_pkey") || strings.Contains(plan, "Sort") || strings.Contains(plan, "Seq Scan on outbox") || strings.Contains(plan, "outbox_p0000000001") {
			t.Errorf("rest, %s:\n%s", state.name, plan)
		}
	}
}

// What is asked on a session of the pool, which has no settings of ours: the history
// is not read, however much there is.
func TestWhatIsMeasuredAndPrunedIsReadByIndex(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for _, table := range []string{"outbox_p0000000000", "parked", "unique_keys"} {
		g.exec(`alter table perdure.` + table + ` set (autovacuum_enabled = off)`)
	}
	g.exec(`insert into perdure.outbox (kind, queue, payload) select 'pay', 'payments', repeat('x', 300)::bytea from generate_series(1, 50000)`)
	g.exec(`insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline) values ('main', 1, pg_current_snapshot(), '', 1, '')`)
	g.exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked)
  select n, 'why', 1, 0, now(), 'post', 'mail', 'application/json', repeat('x', 300)::bytea, true from generate_series(1, 20000) n`)
	g.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) select 's', n::text, n, 1, '', now() + n * interval '1 s' from generate_series(1, 20000) n`)
	tx, err := g.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // the test is over
	for _, state := range []string{`select 1`, `analyze perdure.outbox, perdure.parked, perdure.unique_keys`} {
		g.exec(state)
		plans := func(name, sql, types, args, index, never string) {
			if plan := planOf(t, tx.Conn(), sql, "custom", types, args); !strings.Contains(plan, index) || strings.Contains(plan, never) {
				t.Errorf("%s, %s:\n%s", name, state, plan)
			}
		}
		if state != `select 1` { // what has no statistics is small
			plans("keys", pruneKeys, "bigint", `5000`, "Index Cond: (expires <", "Sort")
		}
		if _, err := tx.Exec(t.Context(), onlyIndexes); err != nil {
			t.Fatal(err)
		}
		plans("backlog", outboxBacklog, "text, bigint", `'main', 100000`, "Index Cond: ((xid >=", "Seq Scan on outbox")
		plans("parked", eachParked, "bigint", `100000`, "Index Cond: (ROW(queue, id) >", "parked_pkey")
	}
}

// Each queue counts up to a limit, and has its oldest row's reason.
func TestParkedQueuesAreCountedOneByOne(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked)
  select n, 'since ' || n, 1, 0, now(), 'post', (array['mail', 'a', 'zoo'])[1 + n % 3], 'application/json', '{}', true from generate_series(1, 30) n`)
	rows, err := g.db.Query(t.Context(), eachParked, 7)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var queue, why string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&queue, &n, &why}, func() error {
		got = append(got, fmt.Sprint(queue, " ", n, " ", why))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(got, ", "); s != "a 7 since 1, mail 7 since 3, zoo 7 since 2" {
		t.Error(s)
	}
}

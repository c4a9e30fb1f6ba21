package admission

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	db, err := pg.Pool(context.Background(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func exec(t testing.TB, db DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), query, args...); err != nil {
		t.Fatal(err)
	}
}

func count(t testing.TB, db DB, limit, exact int64) int64 {
	t.Helper()
	n, err := countBacklog(t.Context(), db, limit, exact)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestBacklogIsCountedOrEstimated: rows that were relayed, ids that no row has,
// and a transaction that commits late.
func TestBacklogIsCountedOrEstimated(t *testing.T) {
	for name, fill := range map[string]string{
		"rows": `insert into perdure.outbox (id, kind, queue, payload) select i, 'any', 'q', '1' from generate_series($1::bigint, $2::bigint) i`,
		"bundles": `insert into perdure.outbox (id, kind, queue, payload, ends)
			select i, 'any', 'q', substr('12345'::bytea, 1, n), case when n > 1 then array(select generate_series(1, n)) end
			  from (select i, least(5, $2::bigint - i + 1)::int as n from generate_series($1::bigint, $2::bigint, 5) i) x`,
	} {
		t.Run(name, func(t *testing.T) { countedOrEstimated(t, fill) })
	}
}

func countedOrEstimated(t *testing.T, fill string) {
	db := database(t)
	const moved = `insert into perdure.relay_cursor (shard, fence, prev, upto, at_id, system_id, database, timeline)
		values ('main', 1, pg_current_snapshot(), null, 0, '', 1, '')
		on conflict (shard) do update set prev = excluded.prev, upto = excluded.upto, at_id = excluded.at_id`
	if n := count(t, db, 1000, 100); n != 0 {
		t.Errorf("an empty outbox: %d", n)
	}
	exec(t, db, fill, 1, 150)
	for limit, want := range map[int64]int64{20: 20, 1000: 150} {
		if n := count(t, db, limit, 500); n < want || n > 5*want {
			t.Errorf("150 rows, no relay so far: %d, want %d", n, want)
		}
	}
	late, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing to keep
	if _, err := late.Exec(t.Context(), fill, 151, 160); err != nil {
		t.Fatal(err)
	}
	exec(t, db, fill, 1000, 30_000)
	exec(t, db, moved) // all of it, but the late ten
	if n := count(t, db, 1000, 500); n != 0 {
		t.Errorf("all is relayed: %d", n)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, 1000, 500); n != 10 {
		t.Errorf("ten were late: %d", n)
	}
	exec(t, db, fill, 30_001, 40_000)
	exec(t, db, fill, 60_001, 70_000)
	exec(t, db, `select setval('perdure.outbox_id_seq', 90000)`) // burnt by what was rolled back
	about := func(what string, want int64) {
		t.Helper()
		if n := count(t, db, 1_000_000, 500); n < want*85/100 || n > want*115/100 {
			t.Errorf("%s: %d, want about %d", what, n, want)
		}
		if n := count(t, db, 1_000_000, 100_000); n != want {
			t.Errorf("%s: counted %d, want %d", what, n, want)
		}
	}
	about("two halves with a gap", 20_010)
	exec(t, db, `update perdure.relay_cursor set upto = pg_current_snapshot(), at_id = 65000`)
	exec(t, db, fill, 90_001, 92_000)
	about("in a large window, and what came after it", 7000)
}

// TestOldHistoryIsNotRead: the rows that wait are found by an index, whatever the
// planner thinks of the table.
func TestOldHistoryIsNotRead(t *testing.T) {
	conn, err := database(t).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	db := conn.Conn() // what a session has read it reports itself
	exec(t, db, `insert into perdure.outbox (kind, queue, payload) select 'any', 'q', repeat('x', 300)::bytea from generate_series(1, 20000)`)
	exec(t, db, `insert into perdure.relay_cursor (shard, fence, prev, system_id, database, timeline) values ('main', 1, pg_current_snapshot(), '', 1, '')`)
	exec(t, db, `insert into perdure.outbox (kind, queue, payload) select 'any', 'q', '1' from generate_series(1, 100)`)
	for _, state := range []string{`select 1`, `analyze perdure.outbox`} {
		exec(t, db, state)
		for range 7 { // a prepared statement gets its generic plan
			exec(t, db, `select pg_stat_force_next_flush()`)
			before := rowsRead(t, db)
			if n := count(t, db, 1000, 500); n != 100 {
				t.Fatalf("%d rows wait, want 100", n)
			}
			exec(t, db, `select pg_stat_force_next_flush()`)
			if read := rowsRead(t, db) - before; read > 1000 {
				t.Errorf("%s: %d rows of the outbox were read to count 100", state, read)
			}
		}
	}
}

// TestPlansAreNotCompiled: a plan without sequential scans looks dear enough, and
// compiling it for some hundred partitions takes seconds.
func TestPlansAreNotCompiled(t *testing.T) {
	tx, err := database(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing to keep
	exec(t, tx.Conn(), `set local jit = on`)              // as behind a pooler
	exec(t, tx.Conn(), sqlByIndex)
	for _, query := range []string{sqlCount, sqlEstimate} {
		rows, err := tx.Query(t.Context(), `explain analyze `+query, 100)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if plan := strings.Join(lines, "\n"); err != nil || strings.Contains(plan, "JIT") || strings.Contains(plan, "Seq Scan on outbox_p") {
			t.Errorf("%v\n%s", err, plan)
		}
	}
}

func TestAnOldMeasurementIsNotBelieved(t *testing.T) {
	b := newBacklog(100)
	at := time.Unix(1_000_000, 0)
	steps := []struct {
		after  time.Duration
		rows   int64 // -1: the measurement failed
		closed bool
	}{
		{0, 99, false}, {1, 100, true}, {1, 95, true}, {1, 90, true}, {1, 89, false}, {1, 99, false}, {1, 300, true},
		{1, -1, true}, {28, -1, true}, {1, -1, false}, {1, -1, false}, {1, 95, false}, {1, 100, true},
	}
	for i, s := range steps {
		at = at.Add(s.after * time.Second)
		if s.rows < 0 {
			b.missed(at)
		} else {
			b.seen(s.rows, at)
		}
		if _, opens := b.state(); (opens != nil) != s.closed {
			t.Fatalf("step %d: closed: %v, want %v", i, opens != nil, s.closed)
		}
	}
}

// TestReservationsAddUpToTheQuota: two dispatchers that ask at the same time, in
// blocks that do not divide the quota, and give back.
func TestReservationsAddUpToTheQuota(t *testing.T) {
	const limit = 4321 // blocks of 4
	db := database(t)
	var held atomic.Int64
	var wg sync.WaitGroup
	var gates []*Gate
	for range 2 {
		g := New(Config{Now: func() time.Time { return time.Unix(1_000_000_000, 0) }}, db, slog.New(slog.DiscardHandler))
		p := &Producer{gate: g, name: "a", limits: api.Limits{Quota: limit}, quota: newQuota("a", limit)}
		g.producers["a"] = p
		gates = append(gates, g)
		for w := range 4 {
			wg.Go(func() {
				for i := range 2000 {
					taken, problem := p.Reserve(t.Context(), 1)
					switch {
					case problem != nil && problem.Name() != "quota-exceeded":
						t.Errorf("%v", problem)
					case problem != nil:
					case (i+w)%3 == 0:
						taken.Return(1)
					default:
						held.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, g := range gates {
		for {
			if _, problem := g.producers["a"].Reserve(t.Context(), 1); problem != nil {
				break
			}
			held.Add(1)
		}
		g.giveBack(t.Context())
	}
	var reserved int64
	if err := db.QueryRow(t.Context(), `select reserved from perdure.quotas`).Scan(&reserved); err != nil || held.Load() != limit || reserved != limit {
		t.Errorf("%d were given out and %d are reserved, %v: want %d", held.Load(), reserved, err, limit)
	}
	away, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	g := New(Config{}, away, slog.New(slog.DiscardHandler))
	p := &Producer{gate: g, name: "a", quota: newQuota("a", limit)}
	if _, problem := p.Reserve(t.Context(), 1); problem == nil || problem.Name() != "unavailable" || problem.Status != 503 {
		t.Errorf("Postgres is away: %v", problem)
	}
}

func TestWhoWaitsEndsWithItsRequest(t *testing.T) {
	g := New(Config{OutboxLimit: 1}, nil, slog.New(slog.DiscardHandler))
	g.backlog.seen(1, time.Now())
	p := &Producer{gate: g, limits: api.Limits{Rate: 0.01, Burst: 1}}
	p.rate = newBucket(p.limits)
	ctx, cancel := context.WithCancelCause(t.Context())
	if problem := p.Await(ctx, time.Second); problem != nil {
		t.Errorf("the first is there: %v", problem)
	}
	r := p.rate.ReserveN(time.Now(), 1) // somebody waits
	if problem := p.Take(0); problem != nil {
		t.Errorf("no tasks at all: %v", problem)
	}
	r.Cancel()
	cancel(errors.New("gone"))
	for name, problem := range map[string]*api.Problem{"the gate": g.AwaitOpen(ctx, time.Hour), "the rate": p.Await(ctx, time.Hour)} {
		if problem == nil || problem.Name() != "stopping" {
			t.Errorf("%s: %v", name, problem)
		}
	}
	// Who did not wait to the end took nothing: the next waits as long as he would have.
	if problem := p.Await(t.Context(), time.Second); problem == nil || problem.GetHeaders().Get("Retry-After") != "100" {
		t.Errorf("%v, %v", problem, problem.GetHeaders())
	}
}

// rowsRead counts what the server read of the outbox, by any way.
func rowsRead(t testing.TB, db DB) (n int64) {
	t.Helper()
	if err := db.QueryRow(context.Background(), `select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint from pg_stat_user_tables where relname like 'outbox%'`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

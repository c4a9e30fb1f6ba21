package relay

// Each rule of the protocol is broken once, in the relay's own SQL, and the
// checker must see it; the same scenario is right with the SQL as it is.

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// mutation replaces a part of the statements. Each part must be there.
type mutation struct {
	window, behind, beyond, rest, bounds, boundsBehind [2]string // what, by what; zero = left alone

	unsorted bool // a window's rows stay in the order of the index, by xid
}

func (m mutation) apply(t *testing.T, s *statements) {
	t.Helper()
	for _, x := range []struct {
		sql  *string
		swap [2]string
	}{{&s.window, m.window}, {&s.behind, m.behind}, {&s.beyond, m.beyond}, {&s.rest, m.rest}, {&s.bounds, m.bounds}, {&s.boundsBehind, m.boundsBehind}} {
		if x.swap[0] == "" {
			continue
		}
		if !strings.Contains(*x.sql, x.swap[0]) {
			t.Fatalf("the statement has no %q to break", x.swap[0])
		}
		*x.sql = strings.ReplaceAll(*x.sql, x.swap[0], x.swap[1])
	}
	if m.unsorted {
		s.sort = func([]row) {}
	}
}

// patience is how long the rows of a scenario are waited for. What a broken
// statement passes over does not come at all.
func (m mutation) patience() time.Duration {
	if m == (mutation{}) {
		return time.Minute
	}
	return 10 * time.Second
}

func TestMutationsTurnTheCheckerRed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		broken   mutation
		scenario func(t *testing.T, m mutation) (wrong []string)
	}{
		"no late branch": {
			mutation{window: [2]string{"where pg_visible_in_snapshot(x, s.upto)", "where false and pg_visible_in_snapshot(x, s.upto)"}},
			lateCommit,
		},
		"fresh upto for each chunk": {
			mutation{
				window: [2]string{"coalesce(case when $4 then null else c.upto end, pg_current_snapshot())", "pg_current_snapshot()"},
				rest:   [2]string{"select c.prev, c.upto,", "select c.prev, pg_current_snapshot() as upto,"},
			},
			commitBetweenChunks,
		},
		"snapshot in a statement of its own": {
			mutation{window: [2]string{"pg_current_snapshot()", "public.own_snapshot()"}},
			commitBesideRead,
		},
		"ordered by xid": {
			mutation{unsorted: true},
			idsAgainstXids,
		},
		"prev kept in memory": {
			mutation{window: [2]string{"select c.prev,", "select coalesce(nullif(current_setting('test.prev', true), '')::pg_snapshot, c.prev) as prev,"}},
			xidsUsedAgain,
		},
		"no late branch behind a move": {
			mutation{behind: [2]string{"where pg_visible_in_snapshot(x, s.upto)", "where false and pg_visible_in_snapshot(x, s.upto)"}},
			lateCommitBesideMove,
		},
		"no late branch where a large window begins": {
			mutation{bounds: [2]string{"where pg_visible_in_snapshot(x, s.upto)", "where false and pg_visible_in_snapshot(x, s.upto)"}},
			lateCommitBeforeManyRows,
		},
		"no late branch behind a large window": {
			mutation{boundsBehind: [2]string{"where pg_visible_in_snapshot(x, s.upto)", "where false and pg_visible_in_snapshot(x, s.upto)"}},
			lateCommitBesideLargeMove,
		},
		"a large window that ends too soon": {
			mutation{bounds: [2]string{"max(r.id)", "min(r.id) + 2"}},
			lateCommitBeforeManyRows,
		},
		"too soon, behind a large one": {
			mutation{boundsBehind: [2]string{"max(r.id)", "min(r.id)"}},
			lateCommitBesideLargeMove,
		},
		"a move that goes further than its window": {
			mutation{beyond: [2]string{"prev = $4::text::pg_snapshot", "prev = case when $4::text is not null then pg_current_snapshot() end"}},
			lateCommitBesideMove,
		},
		"a move that does not wait for the disk": {
			mutation{beyond: [2]string{"set_config('perdure.relay_place', ctid::text, false)", "set_config('perdure.relay_place', ctid::text, false) || set_config('synchronous_commit', 'off', true)"}},
			commitThatACrashTakesBack(true),
		},
		"ids above the known ones, fresh": {
			mutation{window: [2]string{"select last_value::text from perdure.outbox_id_seq", "select '1'"}},
			idsInANewPartition(false),
		},
		"ids above the known ones, behind a move": {
			mutation{behind: [2]string{"select last_value::text from perdure.outbox_id_seq", "select '1'"}},
			idsInANewPartition(true),
		},
		"no flush gate": {
			mutation{window: [2]string{"pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn() as flushed", "true as flushed"}},
			commitThatACrashTakesBack(false),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("right", func(t *testing.T) {
				t.Parallel()
				if wrong := c.scenario(t, mutation{}); len(wrong) > 0 {
					t.Fatalf("the real statements are called wrong: %v", wrong)
				}
			})
			t.Run("broken", func(t *testing.T) {
				t.Parallel()
				wrong := c.scenario(t, c.broken)
				if len(wrong) == 0 {
					t.Fatal("the checker does not see it")
				}
				t.Logf("seen: %v", wrong)
			})
		})
	}
}

// begin opens a transaction of its own connection.
func (g *rig) begin() pgx.Tx {
	g.t.Helper()
	conn, err := pgx.Connect(context.Background(), g.url)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(context.Background())
	if err != nil {
		g.t.Fatal(err)
	}
	return tx
}

func (g *rig) enqueueIn(tx pgx.Tx, key string, n int) int64 {
	g.t.Helper()
	id, err := enqueue(context.Background(), tx, key, n)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

func (g *rig) commit(tx pgx.Tx) {
	g.t.Helper()
	if err := tx.Commit(context.Background()); err != nil {
		g.t.Fatal(err)
	}
}

// lateCommit: a transaction writes before another one and commits after the
// relay has passed that one.
func lateCommit(t *testing.T, m mutation) []string {
	g := newRig(t)
	r := g.relay("a", nil)
	m.apply(t, &r.sql)
	g.run(r)
	late := g.begin()
	g.enqueueIn(late, "x", 1)
	g.enqueue("x", 2)
	g.first(1, g.names.Tasks("payments"))
	g.drained(time.Minute)
	g.commit(late)
	return g.verdict(m.patience())
}

// besideMove has do run while a first row is acknowledged and not passed yet: what it
// commits is found by the read that goes with the move. It must be more than what that read
// is to miss: one that finds nothing is followed by a fresh one, which makes up for it.
func (g *rig) besideMove(t *testing.T, m mutation, do func() error) {
	g.t.Helper()
	r := g.relay("a", nil)
	m.apply(t, &r.sql)
	var once sync.Once
	done := make(chan error, 1)
	r.seams.beforeCursor = func(context.Context, *term, *window) (err error) {
		once.Do(func() {
			err = do()
			done <- err
		})
		return err
	}
	g.enqueue("first", 0)
	g.run(r)
	if err := <-done; err != nil {
		g.t.Fatal(err)
	}
}

// lateCommitBesideMove: a transaction writes before the relay's window and commits while
// that is passed.
func lateCommitBesideMove(t *testing.T, m mutation) []string {
	g := newRig(t)
	late := g.begin()
	g.enqueueIn(late, "x", 1)
	g.besideMove(t, m, func() error {
		if err := late.Commit(context.Background()); err != nil {
			return err
		}
		_, err := enqueue(context.Background(), g.db, "y", 1)
		return err
	})
	return g.verdict(m.patience())
}

// lateCommitBeforeManyRows: the same, and more than a chunk comes with it.
func lateCommitBeforeManyRows(t *testing.T, m mutation) []string {
	g := newRig(t)
	late := g.begin()
	g.enqueueIn(late, "x", 1)
	many := g.begin()
	for n := range 5 {
		g.enqueueIn(many, "y", n)
	}
	r := g.relay("a", func(c *Config) { c.Chunk = 2 })
	m.apply(t, &r.sql)
	var once sync.Once
	r.seams.beforeCursor = func(ctx context.Context, _ *term, _ *window) (err error) {
		once.Do(func() { err = errors.Join(late.Commit(ctx), many.Commit(ctx)) })
		return err
	}
	g.enqueue("first", 0)
	g.run(r)
	return g.verdict(m.patience())
}

// lateCommitBesideLargeMove: a transaction writes before a window of several chunks and
// commits while the last of them is passed.
func lateCommitBesideLargeMove(t *testing.T, m mutation) []string {
	g := newRig(t)
	late := g.begin()
	g.enqueueIn(late, "x", 1)
	for n := range 6 {
		g.enqueue("y", n)
	}
	r := g.relay("a", func(c *Config) { c.Chunk = 2 })
	m.apply(t, &r.sql)
	last := false
	r.seams.beforeCursor = func(ctx context.Context, tm *term, w *window) (err error) {
		if !last && tm.large && !w.full {
			last = true
			if err = late.Commit(ctx); err == nil {
				_, err = enqueue(ctx, g.db, "y", 6)
			}
		}
		return err
	}
	run := g.run(r)
	wrong := g.verdict(m.patience())
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if !last {
		t.Fatal("no large window came to its end")
	}
	return wrong
}

// idsInANewPartition: ids come to a partition that the relay has not looked at so far. Beside
// a move another row comes with them, see besideMove; a fresh read must be alone with them,
// for a move after it would tell the relay of them.
func idsInANewPartition(besideMove bool) func(*testing.T, mutation) []string {
	return func(t *testing.T, m mutation) []string {
		g := newRig(t)
		ahead := func() error {
			_, err := g.db.Exec(context.Background(), `select setval('perdure.outbox_id_seq', 3000000)`)
			if err == nil {
				_, err = enqueue(context.Background(), g.db, "x", 1)
			}
			return err
		}
		if besideMove {
			g.besideMove(t, m, func() error {
				if _, err := enqueue(context.Background(), g.db, "y", 1); err != nil {
					return err
				}
				return ahead()
			})
			return g.verdict(m.patience())
		}
		r := g.relay("a", nil)
		m.apply(t, &r.sql)
		moved := make(chan struct{})
		var once sync.Once
		r.seams.moved = func(context.Context, *term, *window) error { // and has read behind the move
			once.Do(func() { close(moved) })
			return nil
		}
		g.enqueue("first", 0)
		g.run(r)
		<-moved
		if err := ahead(); err != nil {
			t.Fatal(err)
		}
		return g.verdict(m.patience())
	}
}

// commitBetweenChunks: the late commit falls between two chunks of one window,
// with an id that the first chunk has passed.
func commitBetweenChunks(t *testing.T, m mutation) []string {
	g := newRig(t)
	late := g.begin()
	g.enqueueIn(late, "x", 1)
	for n := range 6 {
		g.enqueue("x", 2+n)
	}
	r := g.relay("a", func(c *Config) { c.Chunk = 2 })
	m.apply(t, &r.sql)
	var once sync.Once
	r.seams.moved = func(ctx context.Context, _ *term, _ *window) (err error) {
		once.Do(func() { err = late.Commit(ctx) })
		return err
	}
	g.run(r)
	return g.verdict(m.patience())
}

// commitBesideRead: a row is committed after the read's snapshot was taken, and
// before own_snapshot, a statement of its own, takes its.
func commitBesideRead(t *testing.T, m mutation) []string {
	g := newRig(t)
	g.exec(`create function public.own_snapshot() returns pg_snapshot language plpgsql volatile as $$
	begin
		perform pg_advisory_lock(1);
		perform pg_advisory_unlock(1);
		return (select pg_current_snapshot());
	end $$`)
	gate := g.begin()
	if _, err := gate.Exec(t.Context(), `select pg_advisory_lock(1)`); err != nil {
		t.Fatal(err)
	}
	g.enqueue("x", 0) // an empty pass would not move the cursor
	r := g.relay("a", nil)
	m.apply(t, &r.sql)
	g.run(r)
	if m != (mutation{}) {
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			return one[bool](g, `select exists (select 1 from pg_locks where locktype = 'advisory' and not granted)`), "the relay does not read"
		})
	}
	g.enqueue("x", 1)
	if _, err := gate.Exec(t.Context(), `select pg_advisory_unlock(1)`); err != nil {
		t.Fatal(err)
	}
	g.commit(gate)
	return g.verdict(m.patience())
}

// idsAgainstXids: two transactions hold one lock through their commits, so that
// their rows have an order; the one that goes second began first.
func idsAgainstXids(t *testing.T, m mutation) []string {
	g := newRig(t)
	second := g.begin()
	if _, err := second.Exec(t.Context(), `select pg_current_xact_id()`); err != nil {
		t.Fatal(err)
	}
	g.enqueue("k", 1)
	g.enqueueIn(second, "k", 2)
	g.commit(second)
	r := g.relay("a", nil)
	m.apply(t, &r.sql)
	g.run(r)
	return g.verdict(m.patience())
}

// newOwnRig is a rig on a Postgres that the test may kill. Its WAL writer hardly
// ever writes: what nobody waits for stays in memory.
func newOwnRig(t *testing.T, version string) (*rig, *embedded.Postgres) {
	t.Helper()
	server := testkit.OwnPostgres(t, version)
	if err := pg.Migrate(t.Context(), server.URL(), testkit.MigratedSource); err != nil {
		t.Fatal(err)
	}
	g := newRigOn(t, server.URL())
	g.exec(`alter system set wal_writer_delay = '10s'`)
	g.exec(`alter system set autovacuum = off`)
	g.exec(`select pg_reload_conf()`)
	g.exec(`create table public.burn (n int)`)
	g.exec(`checkpoint`)
	return g, server
}

// revive starts a killed server again. The rig's addresses follow.
func (g *rig) revive(server *embedded.Postgres) {
	g.t.Helper()
	if err := server.Restart(context.Background()); err != nil {
		g.t.Fatal(err)
	}
	old := g.db
	db, err := pg.Pool(context.Background(), server.URL())
	if err != nil {
		g.t.Fatal(err)
	}
	g.url, g.db = server.URL(), db
	g.t.Cleanup(db.Close)
	old.Close()
}

// unrenewed is a relay whose lease is not renewed within a test: a renewal's
// commit would flush what a crash is to take back.
func unrenewed(c *Config) { c.LeaseTTL = time.Hour }

// stopWriters stops the processes that write WAL when they like: what is not waited for is
// then lost with certainty.
func (g *rig) stopWriters() {
	g.t.Helper()
	for _, kind := range []string{"walwriter", "background writer"} {
		pid := one[int](g, `select pid from pg_stat_activity where backend_type = '`+kind+`'`)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			g.t.Fatalf("stop the %s, %d: %v", kind, pid, err)
		}
		g.t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // else a server that lives ends late
	}
}

// atRest waits until the relay's first upkeep is over, whose commits would flush too.
func (g *rig) atRest() {
	g.t.Helper()
	testkit.Eventually(g.t, time.Minute, func() (bool, string) {
		return one[bool](g, `select to_regclass('perdure.outbox_p0000000016') is not null`), "the first upkeep is not done"
	})
	var before string
	testkit.Eventually(g.t, time.Minute, func() (bool, string) { // it commits more than that
		now := one[string](g, `select pg_current_wal_insert_lsn()::text from pg_sleep(0.3)`)
		same := now == before
		before = now
		return same, "the server is not at rest"
	})
}

// xidsUsedAgain: transactions that a crash takes back give their ids to others.
func xidsUsedAgain(t *testing.T, m mutation) []string {
	g, server := newOwnRig(t, "15")
	memory := "" // of one relay, then of the next; they never run at once
	var xmax atomic.Int64
	remember := func(r *Relay) {
		m.apply(t, &r.sql)
		r.seams.beforeRead = func(ctx context.Context, t *term) error {
			_, err := t.conn.Exec(ctx, `select set_config('test.prev', $1, false)`, memory)
			return err
		}
		r.seams.afterRead = func(_ context.Context, _ *term, w *window) error {
			if len(w.rows) == 0 && w.upto != "" {
				memory = w.upto
				n, _ := strconv.ParseInt(strings.Split(w.upto, ":")[1], 10, 64)
				xmax.Store(n)
			}
			return nil
		}
	}
	r := g.relay("a", unrenewed)
	remember(r)
	run := g.run(r)
	g.enqueue("x", 1)
	g.drained(time.Minute)
	g.atRest()
	g.stopWriters()
	before := one[int64](g, `select pg_snapshot_xmax(pg_current_snapshot())::text::bigint`)
	conn, err := pgx.Connect(t.Context(), g.url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `set synchronous_commit = off`); err != nil {
		t.Fatal(err)
	}
	const burnt = 1500
	for range burnt {
		if _, err := conn.Exec(t.Context(), `insert into public.burn values (1)`); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) { return xmax.Load() >= before+burnt, "no pass after the burning" })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	run.cancel()
	if err := run.wait(); err != nil {
		t.Fatal(err)
	}
	g.revive(server)
	if now := one[int64](g, `select pg_snapshot_xmax(pg_current_snapshot())::text::bigint`); now >= before+burnt {
		t.Fatalf("no transaction id is used again: %d before, %d now", before, now)
	}
	g.exec(`update perdure.relay_lease set until = clock_timestamp()`)
	g.enqueue("x", 2)
	r = g.relay("a", nil)
	remember(r)
	g.run(r)
	return g.verdict(m.patience())
}

// commitThatACrashTakesBack: a producer with synchronous_commit=off, a crash between the
// acknowledgements and the cursor's commit. What is committed is found by a fresh read, or
// by the one that goes with a move.
func commitThatACrashTakesBack(besideMove bool) func(*testing.T, mutation) []string {
	return func(t *testing.T, m mutation) []string {
		g, server := newOwnRig(t, "15")
		r := g.relay("a", unrenewed)
		m.apply(t, &r.sql)
		crashed := make(chan error, 1)
		var armed, commits atomic.Bool
		var tx pgx.Tx
		r.seams.beforeCursor = func(ctx context.Context, _ *term, _ *window) error {
			if commits.CompareAndSwap(true, false) {
				return tx.Commit(ctx)
			}
			if armed.CompareAndSwap(true, false) {
				crashed <- server.Kill()
			}
			return nil
		}
		run := g.run(r)
		g.enqueue("x", 0)
		g.drained(time.Minute)
		g.atRest()
		g.stopWriters()
		tx = g.begin()
		if _, err := tx.Exec(t.Context(), `set local synchronous_commit = off`); err != nil {
			t.Fatal(err)
		}
		g.enqueueIn(tx, "x", 1)
		commits.Store(besideMove)
		armed.Store(true)
		if besideMove {
			g.enqueue("y", 0)
		} else {
			g.commit(tx)
		}
		if err := <-crashed; err != nil {
			t.Fatal(err)
		}
		run.cancel()
		if err := run.wait(); err != nil {
			t.Fatal(err)
		}
		g.revive(server)
		g.exec(`update perdure.relay_lease set until = clock_timestamp()`)
		g.run(g.relay("a", nil))
		return g.verdict(m.patience())
	}
}

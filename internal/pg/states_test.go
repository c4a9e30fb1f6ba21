package pg_test

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

// lettersBefore fills a database of the version before letters were two rows.
func lettersBefore(t *testing.T, n int) (url string, conn *pgx.Conn) {
	t.Helper()
	url = testkit.Postgres(t).URL
	if err := pg.MigrateTo(t.Context(), url, "main", 62); err != nil {
		t.Fatal(err)
	}
	conn = connect(t, url)
	if _, err := conn.Exec(t.Context(), fmt.Sprintf(`insert into perdure.dead_letters
	 (letter, kind, queue, reason, fingerprint, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
	 select 'l-' || i, 'k', 'q', 'permanent', 'fp1:a', 'tasks.q', 0, i, 'dlq.q', 0, i, now() from generate_series(1, %d) i`, n)); err != nil {
		t.Fatal(err)
	}
	return url, conn
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// 00063 copies beside writers. Where it was broken off, or had to wait for somebody, it
// begins again, and what was written meanwhile of letters that it had copied counts.
func TestStatesAreCopiedBesideWritersHoweverOften(t *testing.T) {
	t.Parallel()
	url, conn := lettersBefore(t, 4000)
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	const writers = 4
	for w := range writers {
		c := connect(t, url)
		wg.Go(func() {
			for n := w; !stop.Load(); n += writers { // each letter once in a round
				if _, err := c.Exec(context.Background(), `update perdure.dead_letters set state = 'resolved', replays = replays + 1 where letter = $1`, fmt.Sprint("l-", n%4000)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for try := range 6 {
		if try > 0 { // killed before it was noted
			if _, err := conn.Exec(t.Context(), `delete from perdure.migrations where version_id = 63`); err != nil {
				t.Fatal(err)
			}
		}
		if err := pg.MigrateTo(t.Context(), url, "main", 63); err != nil {
			t.Fatal(err)
		}
		var other int
		if err := conn.QueryRow(t.Context(), `select count(*) from perdure.dead_letters d full join perdure.letter_states s using (letter)
where (d.state, d.replays) is distinct from (s.state, s.replays)`).Scan(&other); err != nil || other != 0 {
			t.Fatalf("after try %d %d letters are not as they were written: %v", try+1, other, err)
		}
	}
}

// A transaction that stays open for longer than a step waits for a table holds up the
// indexes, which hold up nobody: they wait for it, and are not begun again.
func TestIndexesThatAreBuiltBesideWritersWait(t *testing.T) {
	t.Parallel()
	url, conn := lettersBefore(t, 10)
	for _, sql := range []string{
		`create table public.begun (what text, at timestamptz default clock_timestamp())`,
		`create function public.note_begun() returns event_trigger language plpgsql as $$ begin insert into public.begun values (tg_tag); end $$`,
		`create event trigger note_begun on ddl_command_start when tag in ('CREATE INDEX') execute function public.note_begun()`,
		`begin isolation level repeatable read`,
		`select count(*) from perdure.dead_letters`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	migrated := make(chan error, 1)
	go func() { migrated <- pg.MigrateTo(context.Background(), url, "main", 63) }()
	look := connect(t, url)
	begun := func(of string) (n int) {
		if err := look.QueryRow(t.Context(), `select count(*) from public.begun`+of).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) { return begun(``) > 0, "no index is begun" })
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return begun(` where at < clock_timestamp() - interval '1500 ms'`) > 0 || begun(``) > 1, "the first index waits"
	})
	if _, err := conn.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	if n := begun(``); n != 9 {
		t.Errorf("9 indexes were begun %d times", n)
	}
}

// The table is a view now.
func TestWhoMightReadLettersStillMay(t *testing.T) {
	t.Parallel()
	url, conn := lettersBefore(t, 10)
	role := fmt.Sprintf("reader_%d", time.Now().UnixNano())
	do := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Fatal(err)
		}
	}
	do(`create role ` + role)
	defer do(`reset role; drop owned by ` + role + `; drop role ` + role)
	do(`grant usage on schema perdure to ` + role + `; grant select on perdure.dead_letters to ` + role + ` with grant option`)
	if err := pg.Migrate(t.Context(), url, "main"); err != nil {
		t.Fatal(err)
	}
	do(`set role ` + role)
	var n int
	if err := conn.QueryRow(t.Context(), `select count(*) from perdure.dead_letters where state = 'open'`).Scan(&n); err != nil || n != 10 {
		t.Errorf("%d letters, want 10: %v", n, err)
	}
	if _, err := conn.Exec(t.Context(), `delete from perdure.dead_letters`); code(err) != "42501" {
		t.Errorf("it might not delete them: %v", err)
	}
}

// Who goes back to the version before stops nobody first.
func TestAStateThatIsWrittenBesideADownStays(t *testing.T) {
	t.Parallel()
	url, conn := lettersBefore(t, 10)
	if err := pg.MigrateTo(t.Context(), url, "main", 64); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`begin`, `update perdure.letter_states set state = 'held' where letter = 'l-7'`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	down := make(chan error, 1)
	go func() { _, err := pg.Down(context.Background(), url); down <- err }()
	look := connect(t, url)
	testkit.Eventually(t, time.Minute, func() (waits bool, state string) {
		err := look.QueryRow(t.Context(), `select exists (select from pg_locks l join pg_database d on d.oid = l.database
where d.datname = current_database() and not granted and relation = 'perdure.letter_states'::regclass)`).Scan(&waits)
		return waits, fmt.Sprintf("it does not wait: %v", err)
	})
	if _, err := conn.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
	var state string
	if err := look.QueryRow(t.Context(), `select state from perdure.dead_letters where letter = 'l-7'`).Scan(&state); err != nil || state != "held" {
		t.Errorf("its state is %q, want held: %v", state, err)
	}
}

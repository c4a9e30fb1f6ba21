package inbox_test

import (
	"crypto/rand"
	"database/sql"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker/inbox"
)

// describe lists a database's inbox: columns, types, defaults, keys.
func describe(t *testing.T, p *pgxpool.Pool) (s string) {
	t.Helper()
	err := p.QueryRow(t.Context(), `select
		(select string_agg(format('%s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)), '; ' order by a.attnum)
		   from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		  where a.attrelid = 'perdure.inbox'::regclass and a.attnum > 0) || ' | ' ||
		(select string_agg(pg_get_constraintdef(oid), '; ') from pg_constraint where conrelid = 'perdure.inbox'::regclass and contype = 'p')`).Scan(&s)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	p, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestMigrateMakesTheTableThatPerdureMigrateMakes(t *testing.T) {
	own := connect(t, testkit.Postgres(t).URL)
	if err := inbox.Migrate(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	if got, want := describe(t, own), describe(t, connect(t, testkit.MigratedPostgres(t).URL)); got != want {
		t.Fatalf("inbox.Schema makes\n%s\nthe migrations make\n%s", got, want)
	}
}

func TestMigrateMayRunInManyProcessesAtOnce(t *testing.T) {
	url := testkit.Postgres(t).URL
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // only read from
	p := connect(t, url)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				err = inbox.Migrate(t.Context(), p)
			} else {
				err = inbox.MigrateSQL(t.Context(), db)
			}
			if err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestMigrateNeedsNoRightsWhereTheTableIs(t *testing.T) {
	p := connect(t, testkit.MigratedPostgres(t).URL)
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	role := "r" + strings.ToLower(rand.Text()) // roles belong to the server, not to the database
	for _, sql := range []string{`create role ` + role, `grant usage on schema perdure to ` + role, `set role ` + role} {
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := inbox.Migrate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), `reset role; drop owned by `+role+`; drop role `+role); err != nil {
		t.Fatal(err)
	}
}

func TestPruneForgetsOnlyWhatIsOld(t *testing.T) {
	p := connect(t, testkit.MigratedPostgres(t).URL)
	if _, err := p.Exec(t.Context(), `insert into perdure.inbox (task_id, step, run, at)
		select 'main-1-' || i, 's', 1, clock_timestamp() - i * interval '1 hour' from generate_series(1, 6000) i`); err != nil {
		t.Fatal(err)
	}
	if n, err := inbox.Prune(t.Context(), p, time.Hour); err == nil {
		t.Fatalf("pruned %d records an hour old: they guard tasks that still run", n)
	}
	// 48 hours and under stay; more than one batch goes.
	n, err := inbox.Prune(t.Context(), p, 48*time.Hour+30*time.Minute)
	if err != nil || n != 6000-48 {
		t.Fatalf("pruned %d (%v), want %d", n, err, 6000-48)
	}
	var oldest float64
	if err := p.QueryRow(t.Context(), `select extract(epoch from max(clock_timestamp() - at)) / 3600 from perdure.inbox`).Scan(&oldest); err != nil {
		t.Fatal(err)
	}
	if oldest > 48.5 {
		t.Fatalf("the oldest record left is %.1f hours old", oldest)
	}
}

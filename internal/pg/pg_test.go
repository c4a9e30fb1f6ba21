package pg_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestTwoMigratorsDoNotCollide(t *testing.T) {
	db := testkit.Postgres(t).URL
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := pg.Migrate(t.Context(), db, "main"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	pool, err := pg.Pool(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pg.CheckVersion(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from perdure.migrations where version_id = 1`).Scan(&n); err != nil || n != 1 {
		t.Fatalf("first migration applied %d times, err %v", n, err)
	}
}

func TestDatabaseKeepsItsSource(t *testing.T) {
	db := testkit.Postgres(t).URL
	if err := pg.Migrate(t.Context(), db, "orders"); err != nil {
		t.Fatal(err)
	}
	err := pg.Migrate(t.Context(), db, "billing")
	if !errors.Is(err, pg.ErrOtherSource) || !strings.Contains(err.Error(), `"orders"`) {
		t.Fatalf("got %v", err)
	}
	if err := pg.Migrate(t.Context(), db, "orders"); err != nil {
		t.Fatal(err)
	}
	if err := pg.Migrate(t.Context(), db, "Not A Source"); err == nil {
		t.Fatal("a bad source name was taken")
	}
}

func TestDownAndUpAgain(t *testing.T) {
	db := testkit.Postgres(t).URL
	ctx := t.Context()
	for _, m := range status(t, db) {
		if !m.Applied.IsZero() {
			t.Fatalf("%s is applied in an empty database", m.Name)
		}
	}
	if v, err := pg.Down(ctx, db); v != 0 || err != nil {
		t.Fatalf("down of an empty database: %d, %v", v, err)
	}
	if err := pg.Migrate(ctx, db, "main"); err != nil {
		t.Fatal(err)
	}
	all := status(t, db)
	for _, m := range all {
		if m.Applied.IsZero() {
			t.Fatalf("%s is not applied", m.Name)
		}
	}
	for i := range all {
		v, err := pg.Down(ctx, db)
		if err != nil || v != all[len(all)-1-i].Version {
			t.Fatalf("down %d: %v", v, err)
		}
	}
	if v, err := pg.Down(ctx, db); v != 0 || err != nil {
		t.Fatalf("down below the first: %d, %v", v, err)
	}
	pool, err := pg.Pool(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pg.CheckVersion(ctx, pool); !errors.Is(err, pg.ErrSchemaOld) {
		t.Fatalf("got %v", err)
	}
	if err := pg.Migrate(ctx, db, "main"); err != nil {
		t.Fatal(err)
	}
}

func TestMigratorGivesUpWithItsContext(t *testing.T) {
	db := testkit.Postgres(t).URL
	conn, err := pgx.Connect(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `select pg_advisory_lock(x'70657264757265'::bigint)`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- pg.Migrate(ctx, db, "main") }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func status(t *testing.T, db string) []pg.Migration {
	t.Helper()
	s, err := pg.Status(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if len(s) == 0 || s[len(s)-1].Version != pg.Latest() {
		t.Fatalf("status lists %d migrations, the newest is %d", len(s), pg.Latest())
	}
	return s
}

// A plan for a table of unknown size is compiled for hundreds of milliseconds, to
// read a few rows: half of all that Postgres did for a task.
func TestNothingIsCompiled(t *testing.T) {
	url := testkit.Postgres(t).URL
	for _, x := range []struct{ url, jit string }{{url, "off"}, {withJIT(t, url), "on"}} {
		pool, err := pg.Pool(t.Context(), x.url)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		var jit string
		if err := pool.QueryRow(t.Context(), `show jit`).Scan(&jit); err != nil || jit != x.jit {
			t.Errorf("jit %q, %v; want %q", jit, err, x.jit)
		}
	}
}

func withJIT(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("jit", "on")
	u.RawQuery = q.Encode()
	return u.String()
}

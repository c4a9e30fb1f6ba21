package pg_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/pg"
)

var databases atomic.Int64

// emptyDB creates a database of the test's own and returns its URL.
func emptyDB(t *testing.T) string {
	t.Helper()
	admin := os.Getenv("PERDURE_TEST_POSTGRES_URL")
	if admin == "" {
		t.Skip("PERDURE_TEST_POSTGRES_URL is not set")
	}
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("pg_test_%d_%d", os.Getpid(), databases.Add(1))
	if _, err := conn.Exec(ctx, "create database "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if _, err := conn.Exec(ctx, "drop database "+name+" with (force)"); err != nil {
			t.Error(err)
		}
		conn.Close(ctx)
	})
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func TestTwoMigratorsDoNotCollide(t *testing.T) {
	db := emptyDB(t)
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
	db := emptyDB(t)
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
	db := emptyDB(t)
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
	db := emptyDB(t)
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

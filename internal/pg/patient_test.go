package pg_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// 00044 changes the outbox, which a transaction has written to that stays open.
func TestAnOpenTransactionHoldsUpTheMigrationAndNoProducer(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t).URL
	if err := pg.MigrateTo(t.Context(), url, "main", 43); err != nil {
		t.Fatal(err)
	}
	var conns [2]*pgx.Conn
	for i := range conns {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		conns[i] = conn
	}
	open, producer := conns[0], conns[1]
	for _, sql := range []string{
		`insert into perdure.queues (queue, settings) values ('q', '{}')`,
		`insert into perdure.kinds (kind, queue, ordered, effects, settings, catalog) values ('k', 'q', false, 'idempotent', '{}', 'c')`,
		`begin`,
		`select perdure.enqueue(kind => 'k', payload => '1')`,
	} {
		if _, err := open.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	migrated := make(chan error, 1)
	go func() { migrated <- pg.Migrate(context.Background(), url, "main") }()

	longest, n := time.Duration(0), 0
	for began := time.Now(); time.Since(began) < 4*time.Second; n++ {
		at := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		_, err := enqueue(ctx, producer, `kind => 'k', payload => '1'`)
		cancel()
		if err != nil {
			t.Fatalf("after %v: %v", time.Since(at), err)
		}
		longest = max(longest, time.Since(at))
	}
	t.Logf("%d tasks beside a migration that waits: %v at most", n, longest)
	if longest > 2500*time.Millisecond {
		t.Errorf("a producer waited %v for a migration that itself waits", longest)
	}
	if longest < 100*time.Millisecond {
		t.Errorf("a producer waited %v at most: nothing was in its way", longest)
	}
	select {
	case err := <-migrated:
		t.Fatalf("migrated under a transaction that uses the outbox: %v", err)
	default:
	}
	if _, err := open.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	var tasks int
	if err := producer.QueryRow(t.Context(), `select count(*) from perdure.outbox`).Scan(&tasks); err != nil || tasks != n+1 {
		t.Errorf("%d tasks, %v; want %d", tasks, err, n+1)
	}
}

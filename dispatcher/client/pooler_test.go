package client_test

// A real pgbouncer in transaction mode: no session between two transactions.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// Two server connections serve them all: what one transaction leaves behind in a
// session, another's finds.
func TestProducersBehindATransactionPooler(t *testing.T) {
	ctx := t.Context()
	db := testkit.MigratedPostgres(t).URL
	direct, err := pg.Pool(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	apply(t, direct, catalogText)
	pooled := testkit.PgBouncer(t, db, 2)
	pool, err := pg.Pool(ctx, pooled)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if mode := pool.Config().ConnConfig.DefaultQueryExecMode; mode != pgx.QueryExecModeCacheDescribe {
		t.Errorf("the pooler was not noticed: %v", mode)
	}
	c, err := client.New(ctx, pool)
	if err != nil {
		t.Fatal(err)
	}
	const callers, each, many = 24, 6, 120 // many: enough for COPY
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			if err := produce(ctx, c, pool, n, each, many); err != nil {
				t.Errorf("caller %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	var rows, keys, ids int
	if err := direct.QueryRow(ctx, `select count(*), count(distinct id) from perdure.outbox_tasks`).Scan(&rows, &ids); err != nil {
		t.Fatal(err)
	}
	if err := direct.QueryRow(ctx, `select count(*) from perdure.unique_keys`).Scan(&keys); err != nil {
		t.Fatal(err)
	}
	// Singles, those in a transaction of the caller's, by SQL, a batch; and a key that all share.
	if want := callers*(3*each+many) + 1; rows != want || ids != want || keys != 1 {
		t.Errorf("%d rows, %d ids, %d keys; want %d and one key", rows, ids, keys, want)
	}
}

// produce enqueues in every way that there is; some transactions roll back.
func produce(ctx context.Context, c *client.Client, pool *pgxpool.Pool, n, each, many int) error {
	task := client.Task{Kind: "brief", Payload: map[string]int{"n": n}}
	for range each {
		if _, err := c.Enqueue(ctx, task); err != nil {
			return fmt.Errorf("single: %w", err)
		}
		for _, keep := range []bool{true, false} {
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if _, err := c.EnqueueTx(ctx, tx, task); err != nil {
					return err
				}
				if !keep {
					return errRollback
				}
				_, err := tx.Exec(ctx, `select perdure.enqueue(kind => 'brief', payload => '{"by": "sql"}')`)
				return err
			})
			if err != nil && !errors.Is(err, errRollback) {
				return fmt.Errorf("in a transaction: %w", err)
			}
		}
	}
	batch := make([]client.Task, many)
	for i := range batch {
		batch[i] = task
	}
	if _, err := c.EnqueueMany(ctx, batch); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	task.Payload, task.IdempotencyKey = "the same", "shared"
	if _, err := c.Enqueue(ctx, task); err != nil {
		return fmt.Errorf("keyed: %w", err)
	}
	return nil
}

var errRollback = errors.New("rolled back on purpose")

package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// TestAFullPoolOfTransactionsCanEnqueue: every connection is in a transaction
// that enqueues just when the catalog is to be looked at again. A look that
// waited for a connection would wait for its own caller, and all for each other.
func TestAFullPoolOfTransactionsCanEnqueue(t *testing.T) {
	inFullPool(t, "any", func(t *testing.T, err error) {
		if err != nil {
			t.Errorf("enqueue: %v", err)
		}
	})
}

// The same where the kind is unknown, which makes the client look at once: it
// is refused in time, not when its context ends.
func TestAFullPoolOfTransactionsIsToldOfAnUnknownKind(t *testing.T) {
	inFullPool(t, "nobody.knows", func(t *testing.T, err error) {
		if !errors.Is(err, client.ErrUnknownKind) {
			t.Errorf("enqueue: %v, want ErrUnknownKind", err)
		}
	})
}

// inFullPool enqueues a task in a transaction on every connection of a pool.
func inFullPool(t *testing.T, kind string, check func(*testing.T, error)) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 3
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte("version: 1\nqueues:\n  q: {partitions: 1}\nkinds:\n  any: {queue: q}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dispatcher.ApplyCatalog(t.Context(), pool, cat, dispatcher.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	client.SetClock(c, func() time.Time { return time.Now().Add(time.Hour) })

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var txs []pgx.Tx
	for range cfg.MaxConns {
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		txs = append(txs, tx)
	}
	var all sync.WaitGroup
	for _, tx := range txs {
		all.Go(func() {
			_, err := c.EnqueueTx(ctx, tx, client.Task{Kind: kind, Payload: 1})
			check(t, err)
			if err := tx.Commit(ctx); err != nil {
				t.Errorf("commit: %v", err)
			}
		})
	}
	all.Wait()
}

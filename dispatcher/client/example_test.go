package client_test

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher/client"
)

// The refund's own row and its task commit together, or neither does.
func ExampleClient_EnqueueTx() {
	refundDispute := func(ctx context.Context, pool *pgxpool.Pool, c *client.Client, dispute string, cents int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into refunds (dispute, cents) values ($1, $2)`, dispute, cents); err != nil {
				return err
			}
			_, err := c.EnqueueTx(ctx, tx, client.Task{
				Kind:           "refund.issue",
				Key:            dispute, // tasks of one dispute in order
				IdempotencyKey: dispute, // the same request twice is one task
				Payload:        map[string]any{"dispute": dispute, "cents": cents},
			})
			return err
		})
	}
	_ = refundDispute
}

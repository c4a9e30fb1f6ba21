// Package inbox makes the effect of a step happen once: it records (task id,
// step) in the user's own Postgres transaction, so that effect and record
// commit together or not at all.
//
//	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		return inbox.Do(ctx, tx, task, "refund", func(ctx context.Context) error {
//			_, err := tx.Exec(ctx, `update accounts set …`)
//			return err
//		})
//	})
//
// What it promises: of all runs of a task, however many overlap or are killed at
// whatever moment, at most one commits the step. What it does not: effects
// outside this transaction (an HTTP call, another database) are not covered by
// it, and happen as often as fn runs; nor does it say that the step happens at
// all: that is what retries are for. It holds for as long as the record does:
// see Prune.
//
// It keeps I2. It starts no goroutine, opens no connection, and commits nothing.
package inbox

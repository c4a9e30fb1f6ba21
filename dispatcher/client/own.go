package client

// Transactions of the client's own, each with the least round trips.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// insertAll writes rows in a transaction of its own. accept is shown what became of
// each, in their order; its error takes all of them back.
func (c *Client) insertAll(ctx context.Context, source string, rows []*row, accept func([]Outcome) error) error {
	out := make([]Outcome, len(rows))
	pool, pooled := c.db.(*pgxpool.Pool) // what wraps one may have its own Begin
	if few := len(rows) < copyFrom; (few || pooled) && !slices.ContainsFunc(rows, (*row).keyed) {
		err := again(func() error {
			if few {
				return c.insertFew(ctx, source, rows, out)
			}
			return c.copyAll(ctx, pool, source, rows, out)
		})
		if err != nil {
			return err
		}
		return accept(out) // nothing is wrong with any
	}
	return c.inTx(ctx, func(tx pgx.Tx) error {
		clear(out)
		if err := insertMany(ctx, tx, source, rows, out, c.lockTimeoutText()); err != nil {
			return err
		}
		return accept(out)
	})
}

// numbered is a row's id.
type numbered struct {
	Seq        int64
	Generation int
}

// insertFew writes rows without keys in one round trip, which is one transaction.
func (c *Client) insertFew(ctx context.Context, source string, rows []*row, out []Outcome) error {
	var b pgx.Batch
	b.Queue(sqlLockTimeout, c.lockTimeoutText())
	var cols columns
	for _, r := range rows {
		cols.add(0, r)
	}
	b.Queue(sqlInsertFew, cols.args(0)[2:]...) // without ids and generation
	res := c.db.SendBatch(ctx, &b)
	_, err := res.Exec()
	var got []numbered
	if err == nil {
		var back pgx.Rows
		if back, err = res.Query(); err == nil {
			got, err = pgx.CollectRows(back, pgx.RowToStructByPos[numbered])
		}
	}
	if cerr := res.Close(); err == nil {
		err = cerr
	}
	if err == nil && len(got) != len(rows) {
		return fmt.Errorf("enqueue: %w", ErrNotMigrated) // no source, so no rows
	}
	slices.SortFunc(got, func(a, b numbered) int { return cmp.Compare(a.Seq, b.Seq) }) // as they were taken
	for i, g := range got {
		out[i] = Outcome{Ref: ref(source, g.Generation, g.Seq, rows[i].scheduled, false)}
	}
	return wrap("write the outbox rows", err)
}

// copyAll writes rows without keys in two round trips: the first begins the transaction
// and takes the ids, the second ends it.
func (c *Client) copyAll(ctx context.Context, pool *pgxpool.Pool, source string, rows []*row, out []Outcome) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return wrap("begin", err)
	}
	defer giveBack(ctx, conn)
	var b pgx.Batch
	b.Queue("begin")
	b.Queue(sqlLockTimeout, c.lockTimeoutText())
	place, err := reserve(ctx, conn, &b, len(rows))
	if err != nil {
		return err
	}
	stream := &copyStream{rows: rows, ids: place.ids, generation: place.generation, bundles: place.bundles}
	done, err := conn.Conn().PgConn().CopyFrom(ctx, stream, copyOutbox+"; commit")
	if err == nil && done.String() != "COMMIT" {
		err = fmt.Errorf("the server answered %s", done)
	}
	for i, r := range rows {
		out[i] = Outcome{Ref: ref(source, place.generation, place.ids[i], r.scheduled, false)}
	}
	return wrap("copy the outbox rows and commit", err)
}

// giveBack ends what a failure left open: a connection in a transaction would be closed.
func giveBack(ctx context.Context, conn *pgxpool.Conn) {
	defer conn.Release()
	if c := conn.Conn(); !c.IsClosed() && c.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = c.Exec(ctx, "rollback") // else it is closed
	}
}

// inTx runs do, which sets the lock timeout, in a transaction of its own, again where
// it lost against another.
func (c *Client) inTx(ctx context.Context, do func(pgx.Tx) error) error {
	return again(func() error {
		tx, err := c.db.Begin(ctx)
		if err != nil {
			return wrap("begin", err)
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after Commit it does nothing; else the error before tells
		if err := do(tx); err != nil {
			return err
		}
		return wrap("commit", tx.Commit(ctx))
	})
}

const tries = 3

// again runs do up to three times while it loses against other transactions.
func again(do func() error) (err error) {
	for range tries {
		if err = do(); !errors.Is(err, ErrSerialization) {
			return err
		}
	}
	return fmt.Errorf("after %d tries: %w", tries, err)
}

package client

// Many tasks in one transaction: ids first, in the caller's order; keyed rows
// next, sorted by key, those with a unique key after them; then the rest by COPY,
// several to a row where that can be, or by unnest where they are few.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// copyFrom is the number of rows from which COPY is cheaper than unnest: see
// BenchmarkManyRows.
const copyFrom = 10

// laneKey is what an idempotency key is unique in; producer "" is session_user.
type laneKey struct{ producer, kind, queue, key string }

// insertMany writes rows; out[i] is what became of rows[i]. A key reuse fails
// its own row only; an error means that the transaction must be rolled back.
// lockTimeout is set for the transaction; "" leaves the caller's.
func insertMany(ctx context.Context, tx pgx.Tx, source string, rows []*row, out []Outcome, lockTimeout string) error {
	if len(rows) == 0 {
		return nil
	}
	var b pgx.Batch
	if lockTimeout != "" {
		b.Queue(sqlLockTimeout, lockTimeout)
	}
	place, err := reserve(ctx, tx, &b, len(rows))
	if err != nil {
		return err
	}
	generation, ids := place.generation, place.ids
	var plain []*row
	var plainIDs []int64
	var keyed, unique []int
	for i, r := range rows {
		if r.uniqueKey != "" {
			unique = append(unique, i)
			continue
		}
		if r.idempotencyKey != "" {
			keyed = append(keyed, i)
			continue
		}
		plain, plainIDs = append(plain, r), append(plainIDs, ids[i])
		out[i].Ref = ref(source, generation, ids[i], r.scheduled, false)
	}
	if err := insertKeyed(ctx, tx, source, generation, rows, ids, keyed, out); err != nil {
		return err
	}
	if err := insertManyUnique(ctx, tx, source, rows, ids, unique, out); err != nil {
		return err
	}
	return insertPlain(ctx, tx, generation, place.bundles, plain, plainIDs)
}

// reserved is where the rows of a transaction go.
type reserved struct {
	generation int
	bundles    bool // the relay knows them
	ids        []int64
}

// reserve takes n ids, behind what b has already.
func reserve(ctx context.Context, db interface {
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}, b *pgx.Batch, n int) (r reserved, err error) {
	b.Queue(sqlReserve, n).QueryRow(func(row pgx.Row) error { return row.Scan(&r.generation, &r.bundles, &r.ids) })
	err = db.SendBatch(ctx, b).Close()
	if errors.Is(err, pgx.ErrNoRows) {
		return r, fmt.Errorf("enqueue: %w", ErrNotMigrated)
	}
	return r, wrap("reserve ids", err)
}

func insertPlain(ctx context.Context, tx pgx.Tx, generation int, bundles bool, rows []*row, ids []int64) error {
	switch {
	case len(rows) == 0:
		return nil
	case len(rows) >= copyFrom:
		return copyPlain(ctx, tx, generation, bundles, rows, ids)
	}
	return unnestPlain(ctx, tx, generation, rows, ids)
}

func copyPlain(ctx context.Context, tx pgx.Tx, generation int, bundles bool, rows []*row, ids []int64) error {
	_, err := tx.Conn().PgConn().CopyFrom(ctx, &copyStream{rows: rows, ids: ids, generation: generation, bundles: bundles}, copyOutbox)
	return wrap("copy the outbox rows", err)
}

func unnestPlain(ctx context.Context, tx pgx.Tx, generation int, rows []*row, ids []int64) error {
	var c columns
	for i, r := range rows {
		c.add(ids[i], r)
	}
	_, err := tx.Exec(ctx, sqlInsertMany, c.args(generation)...)
	return wrap("write the outbox rows", err)
}

// insertKeyed writes those of rows that keyed lists.
func insertKeyed(ctx context.Context, tx pgx.Tx, source string, generation int, rows []*row, ids []int64, keyed []int, out []Outcome) error {
	if len(keyed) == 0 {
		return nil
	}
	var c columns
	byID := make(map[int64]int, len(keyed))
	seen := make(map[laneKey]bool, len(keyed))
	for _, i := range keyed {
		r := rows[i]
		k := laneKey{r.producer, r.kind, r.queue, r.idempotencyKey}
		if seen[k] {
			continue // the first of the batch may hold it; see holders
		}
		seen[k] = true
		byID[ids[i]] = i
		c.add(ids[i], r)
	}
	got, err := tx.Query(ctx, sqlInsertManyKeyed, append(c.args(generation), c.producer, c.idempotencyKey, c.scheduled)...)
	if err != nil {
		return wrap("write the keyed rows", err)
	}
	written, err := pgx.CollectRows(got, pgx.RowTo[int64])
	if err != nil {
		return wrap("write the keyed rows", err)
	}
	for _, id := range written {
		i := byID[id]
		out[i].Ref = ref(source, generation, id, rows[i].scheduled, false)
	}
	var rest []int
	for _, i := range keyed {
		if out[i].Ref.Seq == 0 {
			rest = append(rest, i)
		}
	}
	return holders(ctx, tx, source, rows, rest, out)
}

// holders finds who holds the keys of the rows that rest lists.
func holders(ctx context.Context, tx pgx.Tx, source string, rows []*row, rest []int, out []Outcome) error {
	if len(rest) == 0 {
		return nil
	}
	var c columns
	ns := make([]int32, 0, len(rest))
	for _, i := range rest {
		ns = append(ns, int32(i))
		c.add(0, rows[i])
	}
	found, err := tx.Query(ctx, sqlHolders, ns, c.producer, c.kind, c.queue, c.idempotencyKey, c.payload)
	if err != nil {
		return wrap("read the keys' holders", err)
	}
	var n, generation int
	var seq int64
	var scheduled, same bool
	_, err = pgx.ForEachRow(found, []any{&n, &seq, &generation, &scheduled, &same}, func() error {
		out[n].Ref = ref(source, generation, seq, scheduled, true)
		if !same {
			out[n].Err = fmt.Errorf("%w: task %s has it", ErrKeyReuse, out[n].Ref.ID)
		}
		return nil
	})
	if err != nil {
		return wrap("read the keys' holders", err)
	}
	for _, i := range rest {
		if out[i].Ref.Seq == 0 {
			return fmt.Errorf("enqueue: a key's holder went away: %w", ErrSerialization)
		}
	}
	return nil
}

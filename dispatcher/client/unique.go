package client

// Tasks with a unique key: perdure.insert_unique decides for every way in.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// uniqueArgs are those of sqlInsertUnique.
func uniqueArgs(r *row) []any {
	args := append(insertArgs(r), nullText(r.producer), nullText(r.idempotencyKey), r.scheduled)
	var period any
	if r.uniqueFor > 0 {
		period = fmt.Sprintf("%d microseconds", r.uniqueFor.Microseconds()) // as text: database/sql has no interval
	}
	return append(args, period, r.uniqueKey)
}

// insertUnique reads the answer of sqlInsertUnique.
func insertUnique(answer scanner, source string) (Ref, error) {
	var seq int64
	var generation int
	var scheduled bool
	var outcome string
	if err := answer.Scan(&seq, &generation, &scheduled, &outcome); err != nil {
		return Ref{}, wrap("write the row with a unique key", err)
	}
	return uniqueRef(source, generation, seq, scheduled, outcome)
}

// uniqueOf reads the answer of a batch that ends with sqlInsertUnique; err is the
// batch's so far. What Close says counts: the commit is there.
func uniqueOf(res pgx.BatchResults, err error, source string) (Ref, error) {
	if err != nil {
		_ = res.Close() // says the same again
		return Ref{}, wrap("set lock_timeout", err)
	}
	r, err := insertUnique(res.QueryRow(), source)
	if cerr := res.Close(); cerr != nil && (err == nil || errors.Is(err, ErrKeyReuse)) {
		return Ref{}, wrap("write the row with a unique key", cerr)
	}
	return r, err
}

// uniqueRef is what an outcome of perdure.insert_unique means.
func uniqueRef(source string, generation int, seq int64, scheduled bool, outcome string) (Ref, error) {
	r := ref(source, generation, seq, scheduled, outcome == "replayed" || outcome == "reuse")
	r.Duplicate = outcome == "duplicate"
	if outcome == "reuse" {
		return r, fmt.Errorf("%w: task %s has it", ErrKeyReuse, r.ID)
	}
	return r, nil
}

// insertManyUnique writes those of rows that unique lists.
func insertManyUnique(ctx context.Context, tx pgx.Tx, source string, rows []*row, ids []int64, unique []int, out []Outcome) error {
	if len(unique) == 0 {
		return nil
	}
	var c columns
	for _, i := range unique {
		c.add(ids[i], rows[i])
	}
	got, err := tx.Query(ctx, sqlInsertManyUnique, c.ids, c.runAt, c.deadline, c.kind, c.queue, c.key, c.contentType, c.headers, c.payload,
		c.producer, c.idempotencyKey, c.scheduled, c.uniqueKey, c.uniqueFor)
	if err != nil {
		return wrap("write the rows with unique keys", err)
	}
	var n, generation int
	var seq int64
	var scheduled bool
	var outcome string
	_, err = pgx.ForEachRow(got, []any{&n, &seq, &generation, &scheduled, &outcome}, func() error {
		o := &out[unique[n-1]]
		o.Ref, o.Err = uniqueRef(source, generation, seq, scheduled, outcome)
		return nil
	})
	return wrap("write the rows with unique keys", err)
}

package client

// One task in one transaction: the caller's, by pgx or database/sql.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// scanner is the one row of a query.
type scanner interface{ Scan(dest ...any) error }

// asker runs a query that gives at most one row.
type asker func(ctx context.Context, query string, args ...any) scanner

func askPgx(tx pgx.Tx) asker {
	return func(ctx context.Context, query string, args ...any) scanner { return tx.QueryRow(ctx, query, args...) }
}

func askSQL(tx *sql.Tx) asker {
	return func(ctx context.Context, query string, args ...any) scanner {
		return tx.QueryRowContext(ctx, query, args...)
	}
}

func insertArgs(r *row) []any {
	return []any{nullTime(r.runAt), nullTime(r.deadline), r.kind, r.queue, nullText(r.key), r.contentType, nullText(r.headers), r.payload}
}

func keyedArgs(r *row) []any {
	return append(insertArgs(r), nullText(r.producer), r.idempotencyKey, r.scheduled)
}

// insertOne writes one row.
func insertOne(ctx context.Context, ask asker, source string, r *row) (Ref, error) {
	var seq int64
	var generation int
	if r.uniqueKey != "" {
		return insertUnique(ask(ctx, sqlInsertUnique, uniqueArgs(r)...), source)
	}
	if r.idempotencyKey == "" {
		if err := ask(ctx, sqlInsert, insertArgs(r)...).Scan(&seq, &generation); err != nil {
			return Ref{}, wrap("write the outbox row", err)
		}
		return ref(source, generation, seq, r.scheduled, false), nil
	}
	err := ask(ctx, sqlInsertKeyed, keyedArgs(r)...).Scan(&seq, &generation)
	if errors.Is(err, sql.ErrNoRows) {
		return holder(ctx, ask, source, r)
	}
	if err != nil {
		return Ref{}, wrap("write the outbox row", err)
	}
	return ref(source, generation, seq, r.scheduled, false), nil
}

// holder finds the task that has the key, and compares the payloads.
func holder(ctx context.Context, ask asker, source string, r *row) (Ref, error) {
	var seq int64
	var generation int
	var scheduled, same bool
	err := ask(ctx, sqlHolder, nullText(r.producer), r.kind, r.queue, r.idempotencyKey, r.payload).Scan(&seq, &generation, &scheduled, &same)
	if errors.Is(err, sql.ErrNoRows) {
		return Ref{}, fmt.Errorf("enqueue: the key's holder went away: %w", ErrSerialization)
	}
	if err != nil {
		return Ref{}, wrap("read the key's holder", err)
	}
	first := ref(source, generation, seq, scheduled, true)
	if !same {
		return first, fmt.Errorf("%w: task %s has it", ErrKeyReuse, first.ID)
	}
	return first, nil
}

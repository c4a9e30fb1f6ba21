// Package audit reads what people and policies did: the rows of perdure.audit,
// which the database links into a chain of hashes.
//
// It never writes a row: whoever acts writes it, in the transaction of the act.
// It removes old ones from the chain's beginning, and moves the anchor with them.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Row is one act.
type Row struct {
	Place   int64           `json:"place" doc:"in the chain, from 1, without gaps"`
	At      time.Time       `json:"at"`
	Who     string          `json:"who"`
	What    string          `json:"what"`
	Letter  string          `json:"letter,omitempty"`
	Replay  string          `json:"replay,omitempty"`
	Why     string          `json:"why,omitempty"`
	Details json.RawMessage `json:"details,omitempty"`
	Origin  string          `json:"origin,omitempty" doc:"address and name of the process that wrote it"`
	Prev    string          `json:"prev" doc:"hash of the row before"`
	Hash    string          `json:"hash"`
}

// Filter chooses rows; the zero Filter chooses all.
type Filter struct {
	Who, What, Replay string
	Before            int64 // places below this; 0 = from the end
}

// Log reads the audit; safe for concurrent use.
type Log struct{ db *pgxpool.Pool }

// New returns a Log over db, which stays the caller's.
func New(db *pgxpool.Pool) *Log { return &Log{db: db} }

const columns = `place, at, who, what, coalesce(letter, ''), coalesce(replay, ''), why, details, origin, prev, hash`

func scan(r pgx.CollectableRow) (x Row, err error) {
	return x, r.Scan(&x.Place, &x.At, &x.Who, &x.What, &x.Letter, &x.Replay, &x.Why, &x.Details, &x.Origin, &x.Prev, &x.Hash)
}

// List returns at most limit rows, the latest first.
func (l *Log) List(ctx context.Context, f Filter, limit int) ([]Row, error) {
	rows, err := l.db.Query(ctx, `select `+columns+` from perdure.audit
where ($1 = '' or who = $1) and ($2 = '' or what = $2) and ($3 = '' or replay = $3) and ($4::bigint = 0 or place < $4) order by place desc limit $5`,
		f.Who, f.What, f.Replay, f.Before, limit)
	if err != nil {
		return nil, fmt.Errorf("list the audit: %w", err)
	}
	list, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list the audit: %w", err)
	}
	return list, nil
}

// Each hands every row to f in the chain's order, as of now.
func (l *Log) Each(ctx context.Context, f func(*Row) error) error {
	rows, err := l.db.Query(ctx, `select `+columns+` from perdure.audit order by place`)
	if err != nil {
		return fmt.Errorf("read the audit: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		x, err := scan(rows)
		if err != nil {
			return fmt.Errorf("read the audit: %w", err)
		}
		if err := f(&x); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Verdict is what Verify found.
type Verdict struct {
	Rows   int64  `json:"rows"`
	From   int64  `json:"from" doc:"place of the first row; rows before it were pruned"`
	To     int64  `json:"to" doc:"place of the last row"`
	Hash   string `json:"hash" doc:"of the last row: write it down elsewhere, and a chain that was made anew is found too"`
	Broken string `json:"broken,omitempty" doc:"the first thing that is wrong; absent = the chain is whole"`
	Place  int64  `json:"broken_at,omitempty" doc:"where"`
}

const verify = `
select a.place, a.prev, a.hash, perdure.audit_hash(a), h.place, h.hash, h.from_place, h.from_hash
from perdure.audit_head h left join perdure.audit a on true order by a.place`

// Verify reads the whole chain, in one snapshot, and recomputes every hash. A
// chain that is broken is a Verdict, not an error.
func (l *Log) Verify(ctx context.Context) (Verdict, error) { return verifyIn(ctx, l.db) }

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func verifyIn(ctx context.Context, db querier) (v Verdict, err error) {
	rows, err := db.Query(ctx, verify)
	if err != nil {
		return v, fmt.Errorf("verify the audit: %w", err)
	}
	var place *int64
	var prev, hash, real *string
	var headHash, fromHash string
	var headPlace, fromPlace int64
	broken := func(at int64, format string, args ...any) {
		if v.Broken == "" {
			v.Broken, v.Place = fmt.Sprintf(format, args...), at
		}
	}
	begun, lastHash, lastPlace := false, "", int64(0)
	if _, err := pgx.ForEachRow(rows, []any{&place, &prev, &hash, &real, &headPlace, &headHash, &fromPlace, &fromHash}, func() error {
		if !begun {
			begun, lastHash, lastPlace = true, fromHash, fromPlace
			v.From = fromPlace + 1
		}
		if place == nil {
			return nil // there is no row at all
		}
		v.Rows++
		switch {
		case *place == lastPlace+2:
			broken(lastPlace+1, "a row is missing")
		case *place > lastPlace+1:
			broken(lastPlace+1, "%d rows are missing", *place-lastPlace-1)
		case *place <= lastPlace:
			broken(*place, "the row stands before the chain's beginning")
		case *hash != *real:
			broken(*place, "the row is not what was written")
		case *prev != lastHash:
			broken(*place, "the row before it is not the one that was there")
		}
		lastHash, lastPlace = *hash, *place
		return nil
	}); err != nil {
		return v, fmt.Errorf("verify the audit: %w", err)
	}
	switch {
	case !begun:
		broken(0, "the chain's head is missing")
	case lastPlace+1 == headPlace:
		broken(headPlace, "the last row is missing")
	case lastPlace < headPlace:
		broken(lastPlace+1, "the last %d rows are missing", headPlace-lastPlace)
	case lastPlace != headPlace || lastHash != headHash:
		broken(lastPlace, "the last row is not the one that was there")
	}
	v.To, v.Hash = lastPlace, lastHash
	return v, nil
}

// pruneChunk bounds one DELETE.
const pruneChunk = 5000

const pruneRows = `
with d as (
  delete from perdure.audit where place in (
    select place from perdure.audit where at < now() - $1::interval and place <= (
      select coalesce(min(place) - 1, (select max(place) from perdure.audit)) from perdure.audit where at >= now() - $1::interval)
    order by place limit $2)
  returning place, hash)
update perdure.audit_head set from_place = d.place, from_hash = d.hash
from (select place, hash from d order by place desc limit 1) d`

// Prune removes rows older than keep from the chain's beginning: what is left
// is still a chain, from an anchor.
func (l *Log) Prune(ctx context.Context, keep time.Duration) (int64, error) {
	var n int64
	for {
		var removed int64
		err := pgx.BeginFunc(ctx, l.db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `set local perdure.audit_prune = 'on'`); err != nil {
				return err
			}
			var before, after int64
			const first = `select from_place from perdure.audit_head for update`
			if err := tx.QueryRow(ctx, first).Scan(&before); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, pruneRows, keep, pruneChunk); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, first).Scan(&after); err != nil {
				return err
			}
			removed = after - before
			return nil
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			return n, fmt.Errorf("prune the audit: %w", err)
		}
		if n += removed; removed < pruneChunk {
			return n, err
		}
	}
}

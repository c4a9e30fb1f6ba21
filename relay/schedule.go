package relay

// Rows that are not due when they pass through the outbox wait in
// perdure.scheduled; here they go out when they are, a share of a chunk between
// two passes: however many are due at once, what was just committed waits for one
// share and no more.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// shareOfChunk is the part of a chunk that goes out between two passes: 2,000
// rows, or 2 MiB of payload, by default.
const shareOfChunk = 8

// filedRow is what decodeRow reads; due and now stand behind it.
const filedRow = rowColumns + `, null::boolean`

// Both read in the order of their index behind a place in it: rows that are gone
// leave entries there, which a read from the beginning would go through as long as
// any snapshot may see them. now() and not clock_timestamp(), by which no index is
// read: it would go through all that are not due. $1 due and $2 id of the place.
const (
	readDue = `select ` + filedRow + `, o.due, now() from (
  select o.*, sum(octet_length(o.payload)) over (order by o.due, o.id rows between unbounded preceding and 1 preceding) as before
  from perdure.scheduled o where o.due <= now() and (o.due, o.id) > ($1, $2) order by o.due, o.id limit $3) o
where coalesce(o.before, 0) < $4 order by o.due, o.id`
	nextDue = `select extract(epoch from due - clock_timestamp())::float8 from perdure.scheduled
where (due, id) > ($1, $2) order by due, id limit 1`
)

// longestWait bounds how long nextDue is believed, and the place that promote has
// come to: somebody may cancel or file by hand, a held task may be released with a
// time that is past, and this clock may run slower than the database's.
const longestWait = time.Minute

// place is where a row stands in the order of perdure.scheduled.
type place struct {
	due pgtype.Timestamptz
	id  int64
}

// theBeginning is in front of every row.
var theBeginning = place{pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}, math.MinInt64}

// promote produces what is due, a share at a time, and takes it out of
// perdure.scheduled in the fenced transaction that logs it. It says how many.
func (t *term) promote(ctx context.Context) (int, error) {
	m, err := t.readDue(ctx)
	if err != nil {
		return 0, err
	}
	n := len(m.rows)
	if n > 0 {
		d, err := t.deliver(ctx, m)
		if err != nil {
			return 0, t.mend(err)
		}
		c := t.commit(holdCursor)
		c.log(d)
		if ids := d.ids(fatePark); len(ids) > 0 {
			queues, whys := t.whys()
			c.add(moveParked, ids, queues, whys)
			c.add(dropScheduled, ids)
		}
		c.add(dropScheduled, d.done())
		if err := c.run(ctx); err != nil {
			return 0, err
		}
		t.passed = place{pgtype.Timestamptz{Time: m.lastDue, Valid: true}, m.rows[n-1].id}
		t.r.metrics.count(d)
	}
	full, late := n == t.share() || m.size >= t.shareBytes(), m.late
	t.reuse(m)
	if full {
		t.r.metrics.dueLag.Set(late.Seconds())
		t.wholeAt = time.Now().Add(longestWait) // what has left is behind us, and autovacuum was not there yet
		return n, nil                           // there may be more: the next turn looks again
	}
	t.r.metrics.dueLag.Set(0)
	return n, t.setDue(ctx)
}

// readDue reads the next share. What becomes due later is filed behind the place
// that was passed; once in a while it looks from the beginning all the same, but
// not in the middle of a release, and spends no more than a hundredth of its time on that.
func (t *term) readDue(ctx context.Context) (*slab, error) {
	began := time.Now()
	whole := !began.Before(t.wholeAt)
	if whole {
		t.passed = theBeginning
	}
	m, err := t.readFiled(ctx, readDue, t.passed.due, t.passed.id, t.share(), t.shareBytes())
	if err != nil {
		return nil, err
	}
	if whole {
		now := time.Now()
		t.wholeAt = now.Add(max(longestWait, 100*now.Sub(began)))
	}
	return m, nil
}

func (t *term) share() int      { return max(1, t.r.cfg.Chunk/shareOfChunk) }
func (t *term) shareBytes() int { return max(1, t.r.cfg.ChunkBytes/shareOfChunk) }

// setDue finds out when promote is next needed.
func (t *term) setDue(ctx context.Context) error {
	wait := longestWait
	var seconds float64
	err := t.conn.QueryRow(ctx, nextDue, t.passed.due, t.passed.id).Scan(&seconds)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return fmt.Errorf("postgres: ask for the next scheduled task: %w", err)
	default:
		wait = min(max(0, time.Duration(seconds*float64(time.Second))), longestWait)
	}
	t.due = time.Now().Add(wait)
	return nil
}

// readFiled reads rows of perdure.scheduled or perdure.parked.
func (t *term) readFiled(ctx context.Context, sql string, args ...any) (*slab, error) {
	all := append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}, args...)
	rows, err := t.conn.Query(ctx, sql, all...)
	if err != nil {
		return nil, fmt.Errorf("postgres: read filed tasks: %w", err)
	}
	defer rows.Close()
	m := t.slab()
	for rows.Next() {
		v := rows.RawValues()
		if len(v) > 14 {
			m.lastDue = pgTime(v[14])
			if len(m.rows) == 0 {
				m.late = pgTime(v[15]).Sub(m.lastDue)
			}
		}
		m.add(t.decodeRow(m, v))
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("postgres: read filed tasks: %w", err)
	}
	return m, nil
}

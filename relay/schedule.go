package relay

// Rows that are not due when they pass through the outbox wait in
// perdure.scheduled; here they go out when they are, a share of a chunk between
// two passes: however many are due at once, what was just committed waits for one
// share and no more. The queues that have something due divide it between them, so
// that one's heap does not stand before another's few.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// shareOfChunk is the part of a chunk that goes out between two passes: 1,000
// rows, or 1 MiB of payload, by default.
const shareOfChunk = 8

// filedRow is what decodeRow reads; due stands behind it, and now where that is looked at.
const filedRow = rowColumns + `, null::boolean`

// Both read a queue's rows in the order of their index behind a place in it: rows
// that are gone leave entries there, which a read from the beginning would go through
// as long as any snapshot may see them. now() and not clock_timestamp(), by which no
// index is read: it would go through all that are not due. Rows are compared, so that no
// other index fits. $1 queue, $2 due and $3 id of the place.
const (
	readDue = `select ` + filedRow + `, o.due, now() from (
  select o.*, sum(octet_length(o.payload)) over (order by o.queue, o.due, o.id rows between unbounded preceding and 1 preceding) as before
  from perdure.scheduled o where (o.queue, o.due, o.id) > ($1, $2, $3) and (o.queue, o.due) <= ($1, now()) order by o.queue, o.due, o.id limit $4) o
where coalesce(o.before, 0) < $5 order by o.queue, o.due, o.id`
	nextDue = `select extract(epoch from due - clock_timestamp())::float8 from perdure.scheduled
where (queue, due, id) > ($1, $2, $3) and (queue, due) <= ($1, 'infinity') order by queue, due, id limit 1`
	scheduledQueues = `
with recursive q as (
  (select queue from perdure.scheduled order by queue limit 1)
  union all
  select (select s.queue from perdure.scheduled s where s.queue > q.queue order by s.queue limit 1) from q where q.queue is not null)
select queue from q where queue is not null`
)

// longestWait bounds how long nextDue is believed, and the places that promote has
// come to: somebody may cancel or file by hand, a held task may be released with a
// time that is past, and this clock may run slower than the database's.
const longestWait = time.Minute

// place is where a row stands in the order of a queue's scheduled ones.
type place struct {
	due pgtype.Timestamptz
	id  int64
}

// theBeginning is in front of every row.
var theBeginning = place{pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}, math.MinInt64}

// scheduled is what is known of a queue's rows in perdure.scheduled.
type scheduled struct {
	queue  string
	passed place     // what stands before it is gone, as far as is known
	at     time.Time // when to look at it; zero = nothing is there
	full   bool      // the last share had all that it may: there may be more
}

// filed notes rows that a pass has put into perdure.scheduled: promote finds out when
// they are due. One that was read ahead may stand in front of the place that promote has
// come to since.
func (t *term) filed(d *delivery) {
	now := time.Now()
	for i := range d.rows {
		if d.fates[i] != fateLater {
			continue
		}
		q := t.scheduledOf(d.rows[i].queue)
		if !d.rows[i].due.After(q.passed.due.Time) {
			q.passed = theBeginning
		}
		q.at, t.due = now, now
	}
}

func (t *term) scheduledOf(queue string) *scheduled {
	q := t.scheduled[queue]
	if q == nil {
		q = &scheduled{queue: queue, passed: theBeginning}
		t.scheduled[queue] = q
	}
	return q
}

// findScheduled begins at the beginning of every queue that has rows, but for those
// that are in the middle of a release: what they have left is gone through once it is
// over, and autovacuum had its time.
func (t *term) findScheduled(ctx context.Context) error {
	rows, err := t.conn.Query(ctx, scheduledQueues)
	if err != nil {
		return fmt.Errorf("postgres: look for queues with scheduled tasks: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("postgres: look for queues with scheduled tasks: %w", err)
	}
	before := t.scheduled
	t.scheduled, t.due = make(map[string]*scheduled, len(names)), time.Now()
	for _, name := range names {
		q := t.scheduledOf(name)
		if q.at = t.due; before[name] != nil && before[name].full {
			q.passed = before[name].passed
		}
	}
	return nil
}

// promote produces what is due, a share at a time, and takes it out of
// perdure.scheduled in the fenced transaction that logs it. It says how many.
func (t *term) promote(ctx context.Context) (int, error) {
	m, due, err := t.readDue(ctx)
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
		for i := range m.rows {
			t.scheduledOf(m.rows[i].queue).passed = place{pgtype.Timestamptz{Time: m.dues[i], Valid: true}, m.rows[i].id}
		}
		t.r.metrics.count(d)
	}
	late := time.Duration(0) // more than a share is due
	for _, q := range due {
		if q.full {
			late = m.late
		} else if err := t.setDue(ctx, q); err != nil {
			return n, err
		}
	}
	t.r.metrics.dueLag.Set(late.Seconds())
	t.reuse(m)
	t.due = time.Now().Add(longestWait)
	for _, q := range t.scheduled {
		if !q.at.IsZero() && q.at.Before(t.due) {
			t.due = q.at
		}
	}
	return n, nil
}

// readDue reads the next share, of the queues that may have something due. What
// becomes due later is filed behind the places that were passed; once in a while it
// looks from the beginning all the same, and spends no more than a hundredth of its time
// on that.
func (t *term) readDue(ctx context.Context) (*slab, []*scheduled, error) {
	began := time.Now()
	whole := !began.Before(t.wholeAt)
	if whole {
		if err := t.findScheduled(ctx); err != nil {
			return nil, nil, err
		}
	}
	var due []*scheduled
	for _, q := range t.scheduled {
		if !q.at.IsZero() && !q.at.After(began) || whole {
			due = append(due, q)
		}
	}
	slices.SortFunc(due, func(a, b *scheduled) int { return strings.Compare(a.queue, b.queue) })
	m := t.slab()
	for _, q := range due {
		rows, bytes := max(1, t.share()/len(due)), max(1, t.shareBytes()/len(due))
		n, size := len(m.rows), m.size
		if err := t.readFiled(ctx, m, readDue, q.queue, q.passed.due, q.passed.id, rows, bytes); err != nil {
			return nil, nil, err
		}
		q.full = len(m.rows)-n == rows || m.size-size >= bytes
	}
	if whole {
		now := time.Now()
		t.wholeAt = now.Add(max(longestWait, 100*now.Sub(began)))
	}
	return m, due, nil
}

func (t *term) share() int      { return max(1, t.r.cfg.Chunk/shareOfChunk) }
func (t *term) shareBytes() int { return max(1, t.r.cfg.ChunkBytes/shareOfChunk) }

// setDue finds out when a queue is next to be looked at.
func (t *term) setDue(ctx context.Context, q *scheduled) error {
	var seconds float64
	err := t.conn.QueryRow(ctx, nextDue, q.queue, q.passed.due, q.passed.id).Scan(&seconds)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		q.at = time.Time{}
	case err != nil:
		return fmt.Errorf("postgres: ask for the next scheduled task: %w", err)
	default:
		q.at = time.Now().Add(min(max(0, time.Duration(seconds*float64(time.Second))), longestWait))
	}
	return nil
}

// readFiled adds rows of perdure.scheduled or perdure.parked.
func (t *term) readFiled(ctx context.Context, m *slab, sql string, args ...any) error {
	all := append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}, args...)
	rows, err := t.conn.Query(ctx, sql, all...)
	if err != nil {
		return fmt.Errorf("postgres: read filed tasks: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		v := rows.RawValues()
		o := t.decodeRow(m, v)
		o.due = pgTime(v[14])
		if len(v) > 15 {
			m.dues, m.late = append(m.dues, o.due), max(m.late, pgTime(v[15]).Sub(o.due))
		}
		m.add(o)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("postgres: read filed tasks: %w", err)
	}
	return nil
}

package relay

// Rows that are not due when they pass through the outbox wait in
// perdure.scheduled; here they go out when they are.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const filedRow = rowColumns + `, null::boolean`

const (
	readDue = `select ` + filedRow + ` from perdure.scheduled o
where o.due <= clock_timestamp() order by o.due, o.id limit $1`
	nextDue = `select extract(epoch from min(due) - clock_timestamp())::float8 from perdure.scheduled`
)

// longestWait bounds how long nextDue is believed: somebody may cancel or file
// by hand, and this clock may run slower than the database's.
const longestWait = time.Minute

// promote produces what is due, a chunk at a time, and takes it out of
// perdure.scheduled in the fenced transaction that logs it. It says how many.
func (t *term) promote(ctx context.Context) (int, error) {
	m, err := t.readFiled(ctx, readDue, t.limit)
	if err != nil {
		return 0, err
	}
	if len(m.rows) > 0 {
		d, err := t.deliver(ctx, m, false)
		if err != nil {
			return 0, t.mend(ctx, err)
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
		t.r.metrics.count(d)
	}
	return len(m.rows), t.setDue(ctx)
}

// setDue finds out when promote is next needed.
func (t *term) setDue(ctx context.Context) error {
	var seconds *float64
	if err := t.conn.QueryRow(ctx, nextDue).Scan(&seconds); err != nil {
		return fmt.Errorf("postgres: ask for the next scheduled task: %w", err)
	}
	wait := longestWait
	if seconds != nil {
		wait = min(max(0, time.Duration(*seconds*float64(time.Second))), longestWait)
	}
	t.due = time.Now().Add(wait)
	return nil
}

// readFiled reads rows of perdure.scheduled or perdure.parked, limit at most.
func (t *term) readFiled(ctx context.Context, sql string, limit int, args ...any) (*slab, error) {
	all := append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}, limit}, args...)
	rows, err := t.conn.Query(ctx, sql, all...)
	if err != nil {
		return nil, fmt.Errorf("postgres: read filed tasks: %w", err)
	}
	defer rows.Close()
	m := &slab{}
	for rows.Next() {
		if m.size < t.r.cfg.ChunkBytes { // the others come again
			m.add(t.decodeRow(m, rows.RawValues()))
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("postgres: read filed tasks: %w", err)
	}
	return m, nil
}

package relay

// Queues whose topic is broken: their rows stand in perdure.parked, in the
// order of their ids, until the topic takes records again. As long as one row of
// a queue is parked, all that come after it are parked too: so their order holds.

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	parkedQueues = `select distinct on (queue) queue, why from perdure.parked order by queue, id`
	// $1 queue, $2 rows at most, $3 bytes of payload at most, the last row excepted.
	readParked = `select ` + filedRow + ` from (
  select o.*, sum(octet_length(o.payload)) over (order by o.id rows between unbounded preceding and 1 preceding) as before
  from perdure.parked o where o.queue = $1 order by o.id limit $2) o
where coalesce(o.before, 0) < $3 order by o.id`
)

// firstTry is how many rows of a parked queue are tried first.
const firstTry = 16

// resume finds what earlier terms left: parked queues, scheduled tasks.
func (t *term) resume(ctx context.Context) error {
	t.parked, t.tries = map[string]string{}, map[string]int{}
	t.recurAt = time.Now()
	rows, err := t.conn.Query(ctx, parkedQueues)
	if err != nil {
		return fmt.Errorf("postgres: read parked queues: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var queue, why string
		if err := rows.Scan(&queue, &why); err != nil {
			return fmt.Errorf("postgres: read parked queues: %w", err)
		}
		t.parked[queue] = why
		t.r.metrics.parked.WithLabelValues(t.r.metrics.label(queue)).Set(1)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("postgres: read parked queues: %w", err)
	}
	return t.setDue(ctx)
}

// unpark tries each parked queue, a chunk at a time, and says how many rows went
// out. A queue that is empty afterwards is well.
func (t *term) unpark(ctx context.Context) (int, error) {
	total, more := 0, false
	for queue := range t.parked {
		n, well, err := t.unparkQueue(ctx, queue)
		var wait *waitError
		switch {
		case errors.As(err, &wait):
			t.r.log.Debug("a parked queue is still broken", "queue", queue, "cause", err)
			if err := t.mend(ctx, err); !errors.As(err, &wait) {
				return total, err
			}
			continue
		case err != nil:
			return total, err
		}
		total += n
		if well {
			delete(t.parked, queue)
			delete(t.tries, queue)
			t.r.metrics.parked.WithLabelValues(t.r.metrics.label(queue)).Set(0)
			t.r.log.Info("a parked queue is well again", "queue", queue)
		}
		more = more || !well
	}
	if !more || total == 0 {
		t.probe = time.Now().Add(t.r.cfg.Probe)
	}
	return total, nil
}

// unparkQueue produces the first rows of a parked queue. well says that none is left.
func (t *term) unparkQueue(ctx context.Context, queue string) (n int, well bool, err error) {
	// One bad partition of a queue fails the whole chunk, and its other records are
	// produced again at the next try: so a try is small until one succeeds.
	limit := min(t.tries[queue], t.share())
	if limit == 0 {
		limit = firstTry
	}
	t.tries[queue] = firstTry
	m, err := t.readFiled(ctx, readParked, queue, limit, t.shareBytes())
	if err != nil || len(m.rows) == 0 {
		return 0, err == nil, err
	}
	d, err := t.deliver(ctx, m, true)
	if err != nil {
		return 0, false, err
	}
	c := t.commit(holdCursor)
	c.log(d)
	c.add(dropParked, d.done())
	if err := c.run(ctx); err != nil {
		return 0, false, err
	}
	t.tries[queue] = 8 * limit
	t.r.metrics.count(d)
	n = len(m.rows)
	t.reuse(m)
	return n, false, nil
}

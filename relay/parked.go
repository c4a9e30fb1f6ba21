package relay

// Queues whose topic is broken: their rows stand in perdure.parked, in the
// order of their ids, until the topic takes records again. As long as one row of
// a queue is parked, all that come after it are parked too: so their order holds.
//
// Each such queue is tried with a producer of its own, and nothing waits for it: a
// share is given to Kafka in one turn, and is taken out in a later one, in a fenced
// transaction of the term's connection, once all of it is acknowledged.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// $1 queue, $2 rows at most, $3 bytes of payload at most, the last row excepted.
	readParked = `select ` + filedRow + `, o.due from (
  select o.*, sum(octet_length(o.payload)) over (order by o.id rows between unbounded preceding and 1 preceding) as before
  from perdure.parked o where o.queue = $1 order by o.id limit $2) o
where coalesce(o.before, 0) < $3 order by o.id`
)

const (
	firstTry    = 16                   // how many rows of a parked queue are tried first
	trialLinger = 5 * time.Millisecond // nobody flushes a trial's client
)

// resume finds what earlier terms left: parked queues, scheduled tasks.
func (t *term) resume(ctx context.Context) error {
	t.parked, t.trials = map[string]string{}, map[string]*trial{}
	t.recurAt = time.Now()
	rows, err := t.conn.Query(ctx, eachParked, 1)
	if err != nil {
		return fmt.Errorf("postgres: read parked queues: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var queue, why string
		var some int
		if err := rows.Scan(&queue, &some, &why); err != nil {
			return fmt.Errorf("postgres: read parked queues: %w", err)
		}
		t.parked[queue] = why
		t.r.metrics.parked.WithLabelValues(t.r.metrics.label(queue)).Set(1)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("postgres: read parked queues: %w", err)
	}
	return t.findScheduled(ctx)
}

// trial is what a parked queue's topic is tried with.
type trial struct {
	limit int       // rows of the next share; 0 = firstTry
	at    time.Time // when to look at it again
	out   *producer // nil = none yet
	m     *slab     // the share under way
	sent  *sending  // its records; nil = nothing is under way
	began time.Time // when they were sent
}

func (tr *trial) close() {
	if tr.out != nil {
		tr.out.close()
	}
	*tr = trial{}
}

func (t *term) endTrials() {
	for _, tr := range t.trials {
		tr.close()
	}
}

// unpark looks at each parked queue, and says how many rows were taken out. A queue
// that is empty is well.
func (t *term) unpark(ctx context.Context) (total int, err error) {
	t.probe = time.Now().Add(t.r.cfg.Probe)
	var wait *waitError
	if err := t.askParked(ctx); errors.As(err, &wait) {
		return 0, nil // the passes say so
	} else if err != nil {
		return 0, err
	}
	for queue := range t.parked {
		tr := t.trials[queue]
		if tr == nil {
			tr = &trial{}
			t.trials[queue] = tr
		}
		n, well, err := t.try(ctx, queue, tr)
		total += n
		switch {
		case errors.As(err, &wait):
			t.r.log.Debug("a parked queue is still broken", "queue", queue, "cause", err)
			tr.close() // the next client knows the topic as it is then
			tr.at = time.Now().Add(t.r.cfg.Probe)
		case err != nil:
			return total, err
		case well:
			tr.close()
			// The passes' client may know the topic as it was before it was made anew.
			if err := t.reopen(); err != nil {
				return total, err
			}
			delete(t.parked, queue)
			delete(t.trials, queue)
			t.r.metrics.parked.WithLabelValues(t.r.metrics.label(queue)).Set(0)
			t.r.log.Info("a parked queue is well again", "queue", queue)
			continue
		}
		if tr.at.Before(t.probe) {
			t.probe = tr.at
		}
	}
	return total, nil
}

// askParked makes sure that something is known of every parked queue's topics, at once.
func (t *term) askParked(ctx context.Context) error {
	names := map[string]struct{}{}
	for queue := range t.parked {
		way := t.route(queue)
		names[way.topic], names[way.dlq] = struct{}{}, struct{}{}
	}
	return t.out.ask(ctx, names)
}

// try takes out the share under way, if Kafka has all of it, and gives it the next.
// well says that none is left.
func (t *term) try(ctx context.Context, queue string, tr *trial) (n int, well bool, err error) {
	now := time.Now()
	if now.Before(tr.at) {
		return 0, false, nil
	}
	if tr.sent != nil {
		if !tr.sent.answered() {
			tr.at = now.Add(min(t.r.cfg.Probe, max(time.Millisecond, now.Sub(tr.began)/4)))
			return 0, false, nil
		}
		if n, err = t.takeOut(ctx, tr); err != nil {
			return 0, false, err
		}
	}
	well, err = t.giveShare(ctx, queue, tr)
	return n, well, err
}

// takeOut takes the share under way out of perdure.parked: all of it is answered.
func (t *term) takeOut(ctx context.Context, tr *trial) (int, error) {
	m := tr.m
	if err := t.judge(m.rows, m.records, tr.sent.failed()); err != nil {
		return 0, err
	}
	d := t.delivered(m)
	c := t.commit(holdCursor)
	c.log(d)
	c.add(dropParked, d.done())
	if err := c.run(ctx); err != nil {
		return 0, err
	}
	t.r.metrics.count(d)
	n := len(m.rows)
	tr.m, tr.sent, tr.limit = nil, nil, min(8*max(tr.limit, firstTry), t.share())
	t.reuse(m)
	return n, nil
}

// giveShare produces the first rows of a parked queue. One bad partition fails all of
// them, and what the others took is produced again at the next try: so a share is
// small until one succeeds.
func (t *term) giveShare(ctx context.Context, queue string, tr *trial) (well bool, err error) {
	m := t.slab()
	if err := t.readFiled(ctx, m, readParked, queue, min(max(tr.limit, firstTry), t.share()), t.shareBytes()); err != nil {
		return false, err
	}
	if len(m.rows) == 0 {
		t.reuse(m)
		return true, nil
	}
	if err := t.prepare(ctx, m, true); err != nil {
		return false, err
	}
	if tr.out == nil {
		if tr.out, err = t.r.newProducer(t.out.topics, kgo.ProducerLinger(trialLinger)); err != nil {
			return false, err
		}
	}
	tr.m, tr.sent, tr.began = m, tr.out.produce(ctx, m.send), time.Now()
	tr.at = time.Time{}
	return false, nil
}

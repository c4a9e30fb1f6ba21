package relay

// A pass: read a chunk, make sure that it is on disk, produce it, wait for every
// acknowledgement, move the cursor. The order is the protocol. While there is something
// to do, the move and the next read go in one round trip, and the move's commit is what
// puts on disk what is read.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// pass relays one chunk. busy says that there were rows. An empty pass writes
// nothing.
func (t *term) pass(ctx context.Context) (busy bool, err error) {
	began := time.Now()
	w := t.ahead
	t.ahead = nil
	if w == nil {
		if same, err := t.nothingNew(ctx); err != nil || same {
			return false, err
		}
		if w, err = t.readWindow(ctx); err != nil {
			return false, err
		}
	}
	if t.r.seams.afterRead != nil {
		if err := t.r.seams.afterRead(ctx, t, w); err != nil {
			return false, err
		}
	}
	t.r.metrics.read(w)
	if len(w.rows) == 0 && !w.ended {
		t.empty = w.upto
		t.reuse(w.slab)
		return false, nil
	}
	if len(w.rows) > 0 && !w.flushed {
		if err := t.flush(ctx); err != nil {
			return false, err
		}
	}
	received := t.readAhead(ctx, w)
	d, err := t.deliver(ctx, w.slab)
	ahead, aheadErr := received() // the connection is ours again
	if err != nil {
		return false, t.mend(err) // the chunk is read again: what was read ahead is not behind it
	}
	if t.r.seams.beforeCursor != nil {
		if err := t.r.seams.beforeCursor(ctx, t, w); err != nil {
			return false, err
		}
	}
	var paused time.Duration
	if !w.full && !t.large && len(w.rows) < handful {
		paused = t.pace(ctx)
	}
	behind, err := t.moveCursor(ctx, w, d)
	if err != nil {
		return false, err
	}
	if !w.full {
		ahead = behind
	}
	if d.has(fateLater) {
		t.filed(d)
	}
	t.r.metrics.pass(d, time.Since(began)-paused)
	if t.r.seams.moved != nil {
		if err := t.r.seams.moved(ctx, t, w); err != nil {
			return true, err
		}
	}
	t.reuse(w.slab)
	t.ahead = ahead
	return true, aheadErr
}

// handful is from how many tasks on a pass is not put off. A relay that never waits carries
// that many from 15,000 tasks a second on.
const handful = 32

// pace waits until the cursor may move past a handful, and what was written meanwhile be read
// with it. Passes of a task or two that follow each other at once cost all servers more than
// what a task waits for is worth. The first after a pause waits for nothing.
func (t *term) pace(ctx context.Context) (waited time.Duration) {
	began := time.Now()
	if wait := t.r.cfg.Pace - began.Sub(t.moved); wait > 0 {
		sleep(ctx, wait)
	}
	t.moved = time.Now()
	return t.moved.Sub(began)
}

// nothingNew reports whether the database's snapshot is still the one under which
// the last pass found nothing: what a snapshot sees is told by its text alone, so
// the difference is as empty as it was. It costs a sixth of a read. A take-over
// writes, and so shows in the snapshot too.
func (t *term) nothingNew(ctx context.Context) (bool, error) {
	if t.empty == "" {
		return false, nil
	}
	var now string
	if err := t.conn.QueryRow(ctx, `select pg_current_snapshot()::text`).Scan(&now); err != nil {
		return false, fmt.Errorf("postgres: look whether anything was written: %w", err)
	}
	if now == t.empty {
		if t.r.seams.unchanged != nil {
			t.r.seams.unchanged()
		}
		return true, nil
	}
	t.empty = ""
	return false, nil
}

// readAhead begins to read the chunk behind w, where w is a part of a large
// window, and returns a function that waits for it. In between the connection is
// the reader's.
//
// This is exact because the set is fixed: the target and prev stand in the
// cursor's row, where the read takes them from, rows are never changed, and only
// the place to begin is told by us, an id, which is used once. So it reads what it
// would read after the cursor has moved to w.end; and it is produced only after
// that move was committed under the fence.
func (t *term) readAhead(ctx context.Context, w *window) (received func() (*window, error)) {
	if !t.large || !w.full {
		return func() (*window, error) { return nil, nil }
	}
	type result struct {
		w   *window
		err error
	}
	done := make(chan result, 1)
	go func() {
		next, err := t.readRest(ctx, w.end)
		done <- result{next, err}
	}()
	return func() (*window, error) {
		r := <-done
		return r.w, r.err
	}
}

// A message to nobody in the WAL, in a transaction of its own: with synchronous_commit
// on its commit flushes all WAL before it, and it leaves no dead row behind, which an
// open snapshot would keep.
const flushWAL = `select pg_logical_emit_message(true, 'perdure', '')`

// flush makes sure that what was read is on disk before anyone hears of it: a
// producer with synchronous_commit=off may still lose its commit, and its ids
// would be handed out again.
func (t *term) flush(ctx context.Context) error {
	if _, err := t.conn.Exec(ctx, flushWAL); err != nil {
		return fmt.Errorf("postgres: flush what is to be relayed: %w", err)
	}
	t.r.metrics.flushes.Inc()
	return nil
}

// moveCursor commits a pass. Where w was the last of its window, it reads what is
// behind it. Nil: nothing is, or w's own window goes on.
func (t *term) moveCursor(ctx context.Context, w *window, d *delivery) (behind *window, err error) {
	var c *commit
	if w.full {
		c = t.commit(moveWithin, w.upto, w.end)
	} else {
		c = t.commit(t.r.sql.beyond, w.upto)
	}
	c.log(d)
	if ids := d.ids(fateLater); len(ids) > 0 {
		c.add(fileSchedule, ids, slices.Min(ids), slices.Max(ids))
	}
	if ids := d.ids(fatePark); len(ids) > 0 {
		queues, whys := t.whys()
		rows := d.rowIDs(fatePark)
		c.add(fileParked, ids, queues, whys, slices.Min(rows), slices.Max(rows), rows)
	}
	if w.full {
		if err := c.run(ctx); err != nil {
			return nil, err
		}
		t.at = w.end
		return nil, nil
	}
	if t.r.seams.beforeRead != nil {
		if err := t.r.seams.beforeRead(ctx, t); err != nil {
			return nil, err
		}
	}
	if t.large {
		return t.moveBeyondLarge(ctx, c)
	}
	limit, over := t.limit, false
	err = c.runAndRead(ctx, c.andWindow(), func(rows pgx.Rows) (err error) {
		behind, over, err = t.receive(rows)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.target = held
	switch {
	case t.outgrown(behind):
		return t.readWindow(ctx)
	case over || behind.read > limit:
		return t.openLarge(ctx, behind)
	case len(behind.rows) == 0:
		t.target = drained
		t.reuse(behind.slab)
		return nil, nil
	}
	t.r.sql.sort(behind.rows)
	return behind, nil
}

// moveBeyondLarge is the end of moveCursor behind a large window.
func (t *term) moveBeyondLarge(ctx context.Context, c *commit) (behind *window, err error) {
	var d extent
	err = c.runAndRead(ctx, c.andRead(t.r.sql.boundsBehind), func(rows pgx.Rows) (err error) {
		_, d, err = scanBounds(rows)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.target, t.at, t.last = held, 0, d.last
	if d.empty {
		t.large, t.target = false, drained
		return nil, nil
	}
	if behind, err = t.readRest(ctx, d.first-1); err != nil {
		return nil, err
	}
	t.large = behind.full // what is a chunk at most is found as a window next time
	return behind, nil
}

// mend does what a failed delivery asks for before the pass is repeated, and
// returns err itself, or what went wrong over that.
func (t *term) mend(err error) error {
	var wait *waitError
	if errors.As(err, &wait) && wait.class == classTooLarge {
		if rerr := t.reopen(); rerr != nil {
			return rerr
		}
	}
	return err
}

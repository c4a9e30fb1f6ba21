package relay

// A pass: read a chunk, make sure that it is on disk, produce it, wait for every
// acknowledgement, move the cursor. The order is the protocol.

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pass relays one chunk. busy says that there were rows. An empty pass writes
// nothing.
func (t *term) pass(ctx context.Context) (busy bool, err error) {
	began := time.Now()
	w, err := t.readWindow(ctx)
	if err != nil {
		return false, err
	}
	if t.r.seams.afterRead != nil {
		if err := t.r.seams.afterRead(ctx, t, w); err != nil {
			return false, err
		}
	}
	t.r.metrics.read(w)
	if len(w.rows) == 0 && w.atID == 0 {
		return false, nil
	}
	if len(w.rows) > 0 && !w.flushed {
		if err := t.flush(ctx); err != nil {
			return false, err
		}
	}
	d, err := t.deliver(ctx, w.rows, false)
	if err != nil {
		return false, t.mend(ctx, err)
	}
	if t.r.seams.beforeCursor != nil {
		if err := t.r.seams.beforeCursor(ctx, t, w); err != nil {
			return false, err
		}
	}
	if err := t.moveCursor(ctx, w, d); err != nil {
		return false, err
	}
	t.large = w.full
	if later := d.ids(fateLater); len(later) > 0 {
		t.due = time.Now() // promote finds out when the first is due
	}
	t.r.metrics.pass(d, time.Since(began))
	if t.r.seams.moved != nil {
		if err := t.r.seams.moved(ctx, t, w); err != nil {
			return true, err
		}
	}
	return true, nil
}

// flush makes sure that what was read is on disk before anyone hears of it: a
// producer with synchronous_commit=off may still lose its commit, and its ids
// would be handed out again. Renewing the lease commits with
// synchronous_commit=on, which flushes all WAL before it.
func (t *term) flush(ctx context.Context) error {
	tag, err := t.conn.Exec(ctx, renewLease, t.r.cfg.Source, t.r.cfg.Owner, t.fence, interval(t.r.cfg.LeaseTTL))
	if err != nil {
		return fmt.Errorf("postgres: flush what is to be relayed: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%w: another relay took it", errLeaseLost)
	}
	t.r.metrics.flushes.Inc()
	return nil
}

// moveCursor commits a pass.
func (t *term) moveCursor(ctx context.Context, w *window, d *delivery) error {
	var c *commit
	if w.full {
		c = t.commit(moveWithin, w.upto, w.rows[len(w.rows)-1].id)
	} else {
		c = t.commit(moveBeyond, w.upto)
	}
	c.log(d)
	if ids := d.ids(fateLater); len(ids) > 0 {
		c.add(fileSchedule, ids)
	}
	if ids := d.ids(fatePark); len(ids) > 0 {
		queues, whys := t.whys()
		c.add(fileParked, ids, queues, whys)
	}
	return c.run(ctx)
}

// mend does what a failed delivery asks for before the pass is repeated, and
// returns err itself, or what went wrong over that.
func (t *term) mend(ctx context.Context, err error) error {
	var wait *waitError
	if errors.As(err, &wait) && wait.class == classTooLarge {
		if rerr := t.reopen(ctx); rerr != nil {
			return rerr
		}
	}
	return err
}

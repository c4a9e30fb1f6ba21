package relay

// The pause of an idle relay is slept by the server: a process that wakes up a
// hundred times a second to ask whether anything was written costs ten times what
// the question does.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// pausesAsked is how many pauses one question spans. Its statement keeps its
	// snapshot for that long (a second), in which vacuum may remove what died before.
	pausesAsked = 100

	// askAgain is when to open a session again that failed.
	askAgain = 5 * time.Second
)

// watch is a session of its own for the question: one that is cut off in the
// middle of it, because the relay stops, must not be the one that moves the cursor.
type watch struct {
	conn  *pgx.Conn // nil = none yet, or it failed
	retry time.Time // when to open one again
}

func (w *watch) close() {
	closeConn(w.conn)
	w.conn = nil
}

// await returns when the snapshot is no longer the one under which nothing was
// found, at the next time at which something is due, or when ctx or work ends; in
// any case after pause at the earliest, and after a hundred of them at the latest.
// It is nothing but a pause: whatever it misses is found by the pass behind it.
func (t *term) await(ctx, work context.Context, pause time.Duration) {
	n := int(min(pausesAsked*pause, time.Until(t.nextDue())) / pause)
	if t.empty == "" || n < 2 || time.Now().Before(t.watch.retry) {
		sleep(ctx, pause)
		return
	}
	// Longer than the answer takes, lest a server that is gone be waited for.
	asked, cancel := context.WithTimeout(ctx, time.Duration(n)*pause+askAgain)
	defer cancel()
	defer context.AfterFunc(work, cancel)()
	err := t.ask(asked, pause, n)
	if err == nil || ctx.Err() != nil || work.Err() != nil {
		return
	}
	t.watch.close()
	t.watch.retry = time.Now().Add(askAgain)
	t.r.log.Warn("cannot let the database wait for writes, asking it again and again", "cause", err)
	sleep(ctx, pause)
}

func (t *term) ask(ctx context.Context, pause time.Duration, n int) (err error) {
	if t.watch.conn == nil || t.watch.conn.IsClosed() {
		if t.watch.conn, err = t.r.connect(ctx); err != nil {
			return err
		}
	}
	if _, err = t.watch.conn.Exec(ctx, `select perdure.await_write($1, $2, $3)`, t.empty, pause.Seconds(), n); err != nil {
		return fmt.Errorf("postgres: wait for a write: %w", err)
	}
	return nil
}

// nextDue is when a turn has something to do that no write announces.
func (t *term) nextDue() time.Time {
	at := t.upkeep
	for _, due := range []time.Time{t.due, t.recurAt} {
		if !due.IsZero() && due.Before(at) {
			at = due
		}
	}
	if len(t.parked) > 0 && t.probe.Before(at) {
		at = t.probe
	}
	return at
}

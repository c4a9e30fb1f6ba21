package relay

// The lease: one row, on the database's clock. Whoever takes it writes its new
// fence into the cursor too, in the same transaction, so that a holder which was
// stopped for long can move nothing when it wakes.
//
// The holder's session also holds an advisory lock that is named by the fence. The
// cursor is moved on that session and no other; so where the lock is free, the
// holder can move nothing more, and nobody needs to wait for the lease's end: a
// killed process is replaced as soon as the server has noticed. A stopped one keeps
// its session, and its lease runs out.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// $4 is the fence of this process's last term: it may go on where its own lease
// has not run out. A namesake that starts anew waits like anyone else.
const takeLease = `
insert into perdure.relay_lease as l (shard, owner, fence, until, knows_bundles)
values ($1, $2, 1, clock_timestamp() + $3::interval, 1)
on conflict (shard) do update
  set owner = excluded.owner, fence = l.fence + 1, until = excluded.until, knows_bundles = l.fence + 1
  where l.until <= clock_timestamp() or (l.owner = $2 and l.fence = $4) or l.fence = $5
returning fence, pg_try_advisory_lock(hashtext(shard), (fence % 2147483647)::int)`

// leaseFree is asked before: an upsert that does nothing still takes an xid and
// locks the row, many times a second on every standby. gone: no session holds the
// lock of the fence; we do now.
const leaseFree = `
select coalesce(l.until <= clock_timestamp() or (l.owner = $2 and l.fence = $3), true), coalesce(l.fence, 0),
  case when l.until > clock_timestamp() then pg_try_advisory_lock(hashtext(l.shard), (l.fence % 2147483647)::int) else false end
from (select 1) one left join perdure.relay_lease l on l.shard = $1`

const unlockGone = `select pg_advisory_unlock(hashtext($1), ($2::bigint % 2147483647)::int)`

// A first cursor has seen nothing: no transaction id lies below 3.
const firstSnapshot = `3:3:`

// takeCursor writes the new fence, so that no other moves the cursor any more.
const takeCursor = `
insert into perdure.relay_cursor as c (shard, fence, prev, system_id, database, timeline)
values ($1, $2, '` + firstSnapshot + `', $3, $4, $5)
on conflict (shard) do update set fence = excluded.fence
returning c.ctid, c.prev::text, c.upto is not null, c.at_id, c.system_id, c.database, c.timeline,
  greatest(pg_snapshot_xmax(c.prev), pg_snapshot_xmax(coalesce(c.upto, c.prev)))
    > pg_snapshot_xmax(pg_current_snapshot())`

// takeBundles tells producers that from now on no relay has the lease that does not
// know bundles.
const takeBundles = `update perdure.source set bundles = true where not bundles`

const renewLease = `
update perdure.relay_lease set until = clock_timestamp() + $4::interval
where shard = $1 and owner = $2 and fence = $3`

const releaseLease = `
update perdure.relay_lease set until = clock_timestamp()
where shard = $1 and owner = $2 and fence = $3`

// cursor is what the take found in relay_cursor.
type cursor struct {
	place    pgtype.TID
	prev     string
	held     bool // it has a target, whose rows may not all be passed
	atID     int64
	systemID string
	database uint32
	timeline string
	ahead    bool // its snapshots are ahead of the server's
}

// take takes the lease if it is free. ok is false while another holds it.
func (r *Relay) take(ctx context.Context, conn *pgx.Conn, is identity) (fence int64, c cursor, ok bool, err error) {
	var free, gone bool
	var holder int64 // its fence
	if err := conn.QueryRow(ctx, leaseFree, r.cfg.Source, r.cfg.Owner, r.fence).Scan(&free, &holder, &gone); err != nil {
		return 0, c, false, fmt.Errorf("postgres: look at the lease: %w", err)
	}
	if gone {
		r.log.Info("the session of the lease's holder is gone", "fence", holder)
		if _, err := conn.Exec(ctx, unlockGone, r.cfg.Source, holder); err != nil {
			return 0, c, false, fmt.Errorf("postgres: look at the lease: %w", err)
		}
	} else {
		holder = 0 // no fence
	}
	if !free && !gone {
		return 0, c, false, nil
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, c, false, fmt.Errorf("postgres: take the lease: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit it does nothing

	var locked bool
	err = tx.QueryRow(ctx, takeLease, r.cfg.Source, r.cfg.Owner, interval(r.cfg.LeaseTTL), r.fence, holder).Scan(&fence, &locked)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, c, false, nil
	}
	if err != nil {
		return 0, c, false, fmt.Errorf("postgres: take the lease: %w", err)
	}
	if !locked { // by a standby whose own take failed: it has left by the next try
		return 0, c, false, fmt.Errorf("postgres: take the lease: another session holds the lock of fence %d", fence)
	}
	err = tx.QueryRow(ctx, takeCursor, r.cfg.Source, fence, is.systemID, is.database, is.timeline).
		Scan(&c.place, &c.prev, &c.held, &c.atID, &c.systemID, &c.database, &c.timeline, &c.ahead)
	if err != nil {
		return 0, c, false, fmt.Errorf("postgres: take the cursor: %w", err)
	}
	if _, err := tx.Exec(ctx, takeBundles); err != nil {
		return 0, c, false, fmt.Errorf("postgres: take the lease: %w", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, c, false, fmt.Errorf("postgres: take the lease: %w", err)
	}
	return fence, c, true, nil
}

// keepLease renews until ctx ends. It returns errLeaseLost when another took the
// lease, or when renewing failed for a whole TTL by this process's own monotonic
// clock: then another may have.
//
// It has a connection of its own: a pool that others have emptied must not cost
// the lease.
func (t *term) keepLease(ctx context.Context) error {
	ttl := t.r.cfg.LeaseTTL
	var conn *pgx.Conn
	defer func() { closeConn(conn) }()
	tick := time.NewTicker(ttl / 4)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		began := time.Now()
		err := t.renewOnce(ctx, &conn, ttl)
		switch {
		case err == nil:
			last = began
		case errors.Is(err, errLeaseLost):
			return err
		case ctx.Err() != nil:
			return nil
		case time.Since(last) >= ttl:
			return fmt.Errorf("%w: not renewed for %v: %w", errLeaseLost, ttl, err)
		default:
			t.r.log.Warn("cannot renew the lease, trying again", "cause", err)
		}
	}
}

// renewOnce renews on *conn, which it opens where there is none that works.
func (t *term) renewOnce(ctx context.Context, conn **pgx.Conn, ttl time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(ctx, ttl/2)
	defer cancel()
	if *conn == nil || (*conn).IsClosed() {
		if *conn, err = t.r.connect(ctx); err != nil {
			return err
		}
	}
	tag, err := (*conn).Exec(ctx, renewLease, t.r.cfg.Source, t.r.cfg.Owner, t.fence, interval(ttl))
	if err != nil {
		return fmt.Errorf("postgres: renew the lease: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%w: another relay took it", errLeaseLost)
	}
	return nil
}

// closeConn ends a session, or leaves it to the server where that takes long.
func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn.Close(ctx) //nolint:errcheck // the server drops the session either way
}

// release gives the lease back, so that a standby need not wait for its end.
func (t *term) release(ctx context.Context) {
	if _, err := t.r.deps.DB.Exec(ctx, releaseLease, t.r.cfg.Source, t.r.cfg.Owner, t.fence); err != nil {
		t.r.log.Warn("could not give the lease back, a standby waits for its end", "cause", err)
	}
}

// interval is d as Postgres reads it.
func interval(d time.Duration) string { return fmt.Sprintf("%d microseconds", d.Microseconds()) }

package relay

// Emptying partitions that lie behind the history, as the protocol says: the
// leaf is locked first, and a new statement then looks for rows that the cursor
// has not passed; a look before the lock would miss a late commit.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	// oldEnough: nothing of the range was relayed within the history, and its
	// last row is older than that. $1, $2 bounds; $3 history.
	oldEnough = `
select not exists (
    select 1 from perdure.relay_log
    where int8range(first_id, last_id, '[]') && int8range($1, $2) and relayed_at > now() - $3::interval)
  and coalesce((select created_at < now() - $3::interval from perdure.outbox
    where id >= $1 and id < $2 order by id desc limit 1), true)`
	// unpassed: a row that is not visible in the cursor's prev has not been
	// relayed, or is of a window under way. All xids below prev's xmin are visible.
	unpassed = `
select exists (select 1 from %[1]s o, perdure.relay_cursor c
  where c.shard = $1 and o.xid >= pg_snapshot_xmin(c.prev) and not pg_visible_in_snapshot(o.xid, c.prev)),
  exists (select 1 from %[1]s)`
)

// errNotEmpty takes a transaction back: the leaf has rows that are still needed.
var errNotEmpty = errors.New("rows that are not relayed")

// emptyBehind truncates leaves that are behind the history, drops those that
// were truncated before, and deletes old rows of the overflow partition.
func (t *term) emptyBehind(ctx context.Context, leaves []leaf, sequence int64) error {
	for n, i := 0, 0; i < len(leaves) && n < perUpkeep; i++ {
		l := leaves[i]
		if l.hi > sequence {
			continue // ids of it may still be handed out
		}
		var old bool
		if err := t.conn.QueryRow(ctx, oldEnough, l.lo, l.hi, interval(t.r.cfg.History)).Scan(&old); err != nil {
			return fmt.Errorf("postgres: ask how old partition %s is: %w", l.name, err)
		}
		if !old {
			continue
		}
		n++
		err := t.emptyLeaf(ctx, l)
		switch {
		case lockBusy(err), errors.Is(err, errNotEmpty):
			t.r.log.Debug("cannot empty a partition yet", "partition", l.name, "cause", err)
		case err != nil:
			return fmt.Errorf("postgres: empty partition %s: %w", l.name, err)
		}
	}
	return t.emptyOverflow(ctx)
}

// emptyLeaf truncates a leaf, or drops it if it is empty: dropping needs the
// whole outbox for a moment, which is not worth waiting for with rows in the leaf.
func (t *term) emptyLeaf(ctx context.Context, l leaf) error {
	name := pgx.Identifier{"perdure", l.name}.Sanitize()
	return pgx.BeginFunc(ctx, t.conn, func(tx pgx.Tx) error {
		if err := t.holdFence(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, setLockWait); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `lock table only `+name+` in access exclusive mode`); err != nil {
			return err
		}
		var needed, filled bool
		if err := tx.QueryRow(ctx, fmt.Sprintf(unpassed, name), t.r.cfg.Source).Scan(&needed, &filled); err != nil {
			return err
		}
		if needed {
			return errNotEmpty
		}
		what, sql := "emptied", `truncate `+name
		if !filled {
			what, sql = "dropped", `drop table `+name
		}
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
		t.r.log.Info(what+" a partition of the outbox", "partition", l.name)
		return nil
	})
}

// deleteOverflow takes old, relayed rows from the overflow partition, which
// cannot be dropped. $1 shard, $2 history.
const deleteOverflow = `
delete from perdure.outbox_overflow where id in (
  select o.id from perdure.outbox_overflow o, perdure.relay_cursor c
  where c.shard = $1 and o.created_at < now() - $2::interval and pg_visible_in_snapshot(o.xid, c.prev)
    and not exists (select 1 from perdure.relay_log l
      where int8range(l.first_id, l.last_id, '[]') @> o.id and l.relayed_at > now() - $2::interval)
  order by o.id limit 5000)`

func (t *term) emptyOverflow(ctx context.Context) error {
	if _, err := t.conn.Exec(ctx, deleteOverflow, t.r.cfg.Source, interval(t.r.cfg.History)); err != nil {
		return fmt.Errorf("postgres: empty the overflow partition: %w", err)
	}
	return nil
}

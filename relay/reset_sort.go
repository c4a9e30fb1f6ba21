package relay

// The rows that the cursor has not passed, sorted into those that Kafka cannot
// have and those that it may.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/relaylog"
)

const (
	// Where there is no cursor yet, one that has seen nothing, of this database.
	resetCursor = `
select coalesce(c.prev, '` + firstSnapshot + `')::text, c.upto is not null, coalesce(c.system_id, $2::text), coalesce(c.database, $3::oid), coalesce(c.timeline, $4::text),
  coalesce(greatest(pg_snapshot_xmax(c.prev), pg_snapshot_xmax(coalesce(c.upto, c.prev))) > pg_snapshot_xmax(pg_current_snapshot()), false),
  coalesce(l.until <= clock_timestamp(), true), l.owner
from (select 1) one
left join perdure.relay_cursor c on c.shard = $1
left join perdure.relay_lease l on l.shard = $1`
	resetLease = `
insert into perdure.relay_lease as l (shard, owner, fence, until, knows_bundles) values ($1, $2, 1, clock_timestamp(), 1)
on conflict (shard) do update set owner = excluded.owner, fence = l.fence + 1, until = excluded.until, knows_bundles = l.fence + 1
  where l.until <= clock_timestamp()`
	// Every row that is there is passed now: it was relayed, or is held, parked or
	// scheduled. Transactions that are open have not written the outbox.
	rebaseCursor = `
insert into perdure.relay_cursor as c (shard, fence, prev, system_id, database, timeline)
select $1, l.fence, pg_current_snapshot(), $2, $3, $4 from perdure.relay_lease l where l.shard = $1
on conflict (shard) do update set fence = excluded.fence, prev = excluded.prev, upto = null, at_id = 0,
  system_id = excluded.system_id, database = excluded.database, timeline = excluded.timeline, moved_at = clock_timestamp()`
	renameCursor = `
update perdure.relay_cursor set system_id = $2, database = $3, timeline = $4,
  fence = (select fence from perdure.relay_lease where shard = $1) where shard = $1`
	sequenceGoal = `
select s.at, greatest(s.at, $1::bigint, coalesce((select id + coalesce(cardinality(ends), 1) - 1 from perdure.outbox order by id desc limit 1), 0)) + 1
from (select case when is_called then last_value else last_value - 1 end as at from perdure.outbox_id_seq) s`
	outboxHolders = `
select coalesce(array_agg(distinct pid), '{}') from pg_locks
where pid <> pg_backend_pid() and granted and database = (select oid from pg_database where datname = current_database())
  and relation in (select inhrelid from pg_inherits where inhparent = 'perdure.outbox'::regclass
    union all select 'perdure.outbox'::regclass union all select 'perdure.source'::regclass)`
)

// Rows of other clusters' xids (dump and reload): those that were written here
// since have xids that the cursor's old snapshot may take for passed. They are
// younger than the cursor's last move, by two clocks that are trusted to within
// reloadSkew; what the relay's log shows as relayed is left out.
const reloadSkew = `interval '10 minutes'`

const (
	tempUnpassed = `create temp table unpassed (id bigint primary key, row_id bigint) on commit drop`
	tempLogged   = `create temp table logged (id bigint) on commit drop`

	// $1 shard. Rows below prev's xmin are passed; the index on xid leaves them out.
	findUnpassed = `
insert into unpassed
select o.id, o.row_id from perdure.outbox_tasks o, (
  select coalesce(c.prev, '` + firstSnapshot + `') as prev, c.upto, coalesce(c.at_id, 0) as at_id
  from (select 1) one left join perdure.relay_cursor c on c.shard = $1) c
where o.xid >= pg_snapshot_xmin(c.prev) and not pg_visible_in_snapshot(o.xid, c.prev)
  and not (c.upto is not null and o.id <= c.at_id and pg_visible_in_snapshot(o.xid, c.upto))`
	readLogged   = `select hops from perdure.relay_log where relayed_at > (select moved_at from perdure.relay_cursor where shard = $1) - 2 * ` + reloadSkew
	findReloaded = `
insert into unpassed
select o.id, o.row_id from perdure.outbox_tasks o, perdure.relay_cursor c
where c.shard = $1 and o.created_at > c.moved_at - ` + reloadSkew + `
  and not exists (select 1 from logged l where l.id = o.id)
  and not exists (select 1 from perdure.scheduled s where s.id = o.id)
  and not exists (select 1 from perdure.parked p where p.id = o.id)
on conflict do nothing`
	unpassedTasks = `unpassed u join perdure.outbox_tasks o using (id, row_id)`
	// $1 Kafka's highest id. A task of the schedule that is not due cannot have left.
	holdOutbox = `
insert into perdure.held (was, due, ` + fileColumns + `)
select 'outbox', run_at, ` + fileColumns + ` from ` + unpassedTasks + ` where id <= $1`
	holdScheduled = `
with gone as (delete from perdure.scheduled where id <= $1 and due <= clock_timestamp() + interval '1 minute' returning *)
insert into perdure.held (was, due, ` + fileColumns + `) select 'scheduled', due, ` + fileColumns + ` from gone`
	holdParked = `
with gone as (delete from perdure.parked where id <= $1 returning *)
insert into perdure.held (was, ` + fileColumns + `) select 'parked', ` + fileColumns + ` from gone`
	// The rest leaves as parked and scheduled tasks do, in the order of their ids.
	parkRest = `
insert into perdure.parked (why, due, ` + fileColumns + `)
select 'carried over by outbox reset, leaves by itself', case when run_at > created_at then run_at end, ` + fileColumns + ` from ` + unpassedTasks + `
where id > $1 and coalesce(run_at <= now(), true)`
	scheduleRest = `
insert into perdure.scheduled (due, ` + fileColumns + `)
select run_at, ` + fileColumns + ` from ` + unpassedTasks + ` where id > $1 and run_at > now()`
	// xids of another cluster lie ahead of this one's: when it has reached them,
	// the rows would come a second time. 3 is the first xid there is.
	passForeign = `update perdure.outbox set xid = '3' where not pg_visible_in_snapshot(xid, pg_current_snapshot())`
	countHeld   = `select queue, count(*) from perdure.held where held_at >= now() group by queue`
)

// sort files every row that the cursor has not passed, and what waits elsewhere.
func (x *resetting) sort(ctx context.Context, tx pgx.Tx, rep *ResetReport) error {
	do := func(what, sql string, args ...any) (int64, error) {
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return 0, fmt.Errorf("postgres: %s: %w", what, err)
		}
		return tag.RowsAffected(), nil
	}
	shard, high := x.r.cfg.Source, x.kafka.seq
	if _, err := do("look for tasks that were not relayed", tempUnpassed); err != nil {
		return err
	}
	if _, err := do("look for tasks that were not relayed", findUnpassed, shard); err != nil {
		return err
	}
	if x.foreign {
		if err := x.loadLogged(ctx, tx); err != nil {
			return err
		}
		if _, err := do("look for tasks written since the reload", findReloaded, shard); err != nil {
			return err
		}
	}
	for _, sql := range []string{holdOutbox, holdScheduled, holdParked} {
		if _, err := do("hold tasks that Kafka may have", sql, high); err != nil {
			return err
		}
	}
	for _, sql := range []string{parkRest, scheduleRest} {
		n, err := do("carry over tasks that Kafka cannot have", sql, high)
		if err != nil {
			return err
		}
		rep.Sent += n
	}
	if x.foreign && !x.opt.DryRun {
		if _, err := do("pass rows of another cluster", passForeign); err != nil {
			return err
		}
	}
	rows, err := tx.Query(ctx, countHeld)
	if err != nil {
		return fmt.Errorf("postgres: count held tasks: %w", err)
	}
	var queue string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&queue, &n}, func() error { rep.Held[queue] = n; return nil })
	if err != nil {
		return fmt.Errorf("postgres: count held tasks: %w", err)
	}
	return nil
}

// loadLogged lists the ids that the log shows as relayed around the cursor's
// last move.
func (x *resetting) loadLogged(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, tempLogged); err != nil {
		return fmt.Errorf("postgres: read the relay's log: %w", err)
	}
	rows, err := tx.Query(ctx, readLogged, x.r.cfg.Source)
	if err != nil {
		return fmt.Errorf("postgres: read the relay's log: %w", err)
	}
	var ids [][]any
	var b []byte
	_, err = pgx.ForEachRow(rows, []any{&b}, func() error {
		hops, err := relaylog.Decode(b)
		for i := range hops {
			ids = append(ids, []any{hops[i].ID})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("postgres: read the relay's log: %w", err)
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"logged"}, []string{"id"}, pgx.CopyFromRows(ids)); err != nil {
		return fmt.Errorf("postgres: list what the relay's log has: %w", err)
	}
	if _, err := tx.Exec(ctx, `analyze logged`); err != nil {
		return fmt.Errorf("postgres: list what the relay's log has: %w", err)
	}
	return nil
}

package admission

// How many tasks of the outbox wait for the relay: counted while they are few,
// estimated where counting would cost too much.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// countUpTo is where counting ends, as in `perdure outbox status`.
const countUpTo = 100_000

// The planner must not read a table that holds the history in order to find the
// few rows that are new; see decision 0070. With scans switched off a plan looks so
// dear that the server would compile it, which takes seconds. For one transaction.
const sqlByIndex = `select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
  set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
  set_config('enable_material', 'off', true), set_config('jit', 'off', true)`

// cursorState: a row is behind the cursor where prev sees it, or where the target
// of a large window does and its id is passed. Without a relay so far: none is.
const cursorState = `
s as materialized (
  select coalesce(c.prev, '3:3:'::pg_snapshot) as prev, coalesce(c.at_id, 0) as at_id, c.upto as target
    from perdure.source src left join perdure.relay_cursor c on c.shard = src.source)`

// sqlCount counts them by the index on (xid, id), in $1 rows at most.
const sqlCount = `with` + cursorState + `
select coalesce(sum(tasks), 0)::bigint, count(*) from (
  (select coalesce(cardinality(o.ends), 1) as tasks from s, perdure.outbox o
    where o.xid >= (select pg_snapshot_xmax(prev) from s)
      and (s.target is null or o.id + 0 > s.at_id or not pg_visible_in_snapshot(o.xid, s.target)) limit $1::bigint)
  union all
  (select coalesce(cardinality(o.ends), 1) from s, pg_snapshot_xip(s.prev) x, lateral (select o.id, o.xid, o.ends from perdure.outbox o where o.xid = x offset 0) o
    where s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(o.xid, s.target) limit $1::bigint)
  limit $1::bigint) waiting`

// sqlEstimate looks at samples by primary key: ids are cut into strata, the newest
// $1 of them, as many before, twice as many before these, and so on down to the
// oldest row that is kept; of each stratum 8 windows of 64 ids are read. It needs
// no idea of where the backlog begins, gaps in the ids do not count, and a
// backlog that ends within a stratum is known to a sixteenth of it.
const sqlEstimate = `with` + cursorState + `,
ends as materialized (
  select (select last_value from perdure.outbox_id_seq) as last, (select min(id) - 1 from perdure.outbox) as first),
strata as (
  select greatest(last - $1::bigint * 2 ^ k, first)::bigint as lo, (case when k = 0 then last else last - $1::bigint * 2 ^ (k - 1) end)::bigint as hi
    from ends, generate_series(0, 40) k),
windows as materialized (
  select lo + (hi - lo) * (2 * i + 1) / 16 as at, least(64, (hi - lo + 7) / 8) as size, (hi - lo) / 8.0 as stands_for
    from strata, generate_series(0, 7) i where lo < hi)
select coalesce(sum(w.stands_for * n.waiting / w.size), 0)::bigint, 0
  from windows w, lateral (
    select coalesce(sum(coalesce(cardinality(o.ends), 1)), 0) as waiting from s, perdure.outbox o
     where o.id > w.at and o.id <= w.at + w.size and not pg_visible_in_snapshot(o.xid, s.prev)
       and (s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(o.xid, s.target))) n`

// countBacklog is right up to exact rows or limit, whichever is less, and an estimate
// beyond. Tasks that the relay filed as scheduled or parked do not count.
func countBacklog(ctx context.Context, db DB, limit, exact int64) (int64, error) {
	tasks, rows, err := askByIndex(ctx, db, sqlCount, min(limit, exact))
	if err != nil {
		return 0, fmt.Errorf("postgres: count the outbox's backlog: %w", err)
	}
	if rows < exact || limit <= exact {
		return tasks, nil
	}
	estimate, _, err := askByIndex(ctx, db, sqlEstimate, exact)
	if err != nil {
		return 0, fmt.Errorf("postgres: estimate the outbox's backlog: %w", err)
	}
	return max(tasks, estimate), nil
}

// askByIndex also says in how many rows the tasks are, where they were counted.
func askByIndex(ctx context.Context, db DB, query string, n int64) (tasks, rows int64, err error) {
	var b pgx.Batch // one transaction
	b.Queue(sqlByIndex)
	b.Queue(query, n)
	res := db.SendBatch(ctx, &b)
	if _, err = res.Exec(); err == nil {
		err = res.QueryRow().Scan(&tasks, &rows)
	}
	if cerr := res.Close(); err == nil {
		err = cerr
	}
	return tasks, rows, err
}

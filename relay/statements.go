package relay

// The relay's reads. Tests change these texts to see that the history checker
// notices; nothing else writes them.

import "fmt"

// rowColumns are what a record is made of; see decodeRow. What nearly every row
// has alike is left out where it is so: a null costs neither server nor relay.
const (
	rowColumns = rowHead + `o.payload` + rowTail
	rowHead    = `o.id, o.created_at, o.kind, o.queue, o.key, o.task_id, `
	rowTail    = `,
  nullif(o.content_type, 'application/json'), o.headers::text, o.deadline, nullif(o.epoch, 0), o.generation,
  nullif(o.checked, true)`
)

// outboxColumns are those of a row in the outbox. later: run_at is ahead. Null: no.
// The payload stays behind where nobody has to look at it before it is due: a million
// tasks for tomorrow are filed without coming here.
// ends and keys: of a bundle, see unbundle. Last, when a task was due that was not when it was enqueued.
const outboxColumns = rowHead + `case when o.run_at > now() and o.checked then null else o.payload end` + rowTail +
	`, case when o.run_at > now() then true end, o.ends, o.keys, case when o.run_at > o.created_at then o.run_at end`

// difference is the rows that a cursor has not passed and its target sees, as r:
// new transactions, then those that were open at prev. Its columns, and a condition on
// their ids.
//
// It is written so that the index by (xid, id) is the only one that fits, however
// small, empty or never analyzed a partition was when the plan was made: a read by
// primary key would go through everything that the history keeps. Hence the
// sub-selects, which are constants to the planner, id + 0, and offset 0, which
// keeps the lookup by xid one of its own; the session's settings (see connect) do
// the rest.
const difference = `
r as (
  select %[1]s
  from perdure.outbox o
   where o.xid >= pg_snapshot_xmax((select prev from s)) and o.xid < pg_snapshot_xmax((select upto from s))
     and pg_visible_in_snapshot(o.xid, (select upto from s)) and o.id + 0 > (select at_id from s)%[2]s
  union all
  select o.* from s, pg_snapshot_xip(s.prev) x, lateral (
    select %[1]s from perdure.outbox o where o.xid = x and o.id + 0 > s.at_id%[2]s offset 0) o
   where pg_visible_in_snapshot(x, s.upto))
`

// notAbove leaves partitions out before they are opened. Said twice, it serves no index:
// see difference.
func notAbove(id string) string { return ` and (o.id <= ` + id + ` or o.id < ` + id + `)` }

// What a read is about, as s. A fresh one takes the snapshot that it reads under, unless
// the cursor holds a target that is not drained; the others read up to that target.
const (
	fresh = `
with s as materialized (
  select c.prev, coalesce(case when $4 then null else c.upto end, pg_current_snapshot()) as upto, c.at_id,
    pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn() as flushed
  from perdure.relay_cursor c where` + atPlace + `),`
	heldTarget = `
with s as materialized (
  select c.prev, c.upto, c.at_id, true as flushed
  from perdure.relay_cursor c where`
)

// A header row stands before the rows, in their columns: now in created_at, upto
// in kind, the highest id handed out in queue, flushed in checked. Its id is null. The
// sequence is read after the snapshot is taken: no row that is seen has a higher id.
const headerRow = `select null::bigint, now(), s.upto::text, (select last_value::text from perdure.outbox_id_seq), null::text, null::text, null::bytea,
  null::text, null::text, null::timestamptz, null::int, null::int, s.flushed, null::boolean, null::int[], null::text[], null::timestamptz from s
union all
`

const boundsOf = `select s.upto::text, d.* from s, (select min(r.id), max(r.id) from r%s) d`

// statements are the reads of a pass, and the move between two of them. Each read is one
// statement, autocommit, READ COMMITTED, in a transaction that owns no xid. No row at
// all means that the fence is lost.
//
// flushed compares two WAL positions that are read after the statement's
// snapshot: every commit that the snapshot sees lies before the first of them.
type statements struct {
	// All: $1 shard, $2 fence; all but behind: $3 the cursor's place.

	// window: $4 whether the cursor's target is drained, $5 rows at most, $6 an id above
	// which partitions are left out, of which there is a dozen for ids to come: to open them
	// costs more than all the rest. The difference as it lies in the index; sort orders it,
	// which costs the server twice as much.
	window string
	// behind: $3 rows at most, $4 an id. The same up to the target that the move in front of
	// it, on the same session, has left in the cursor.
	behind string
	// beyond: $4 the snapshot under which the window was read; see moveBeyond.
	beyond string
	// bounds: $4 an id. Of the difference's rows above it and the cursor's: the lowest and
	// the highest id, null where there is none.
	bounds string
	// boundsBehind: the same of the target that the move in front of it has left, from its beginning.
	boundsBehind string
	// rest: $4 rows at most, $5 and $6 ids. The rows of a held
	// target with $5 < id ≤ $6 by primary key, in order. It may be asked before the
	// cursor has come to $5: the set is the same.
	rest string
	sort func([]row)
}

func newStatements() statements {
	return statements{
		window:       fresh + fmt.Sprintf(difference, outboxColumns, notAbove(`$6`)) + headerRow + `(select * from r limit $5)`,
		behind:       heldTarget + whereMoved + `),` + fmt.Sprintf(difference, outboxColumns, notAbove(`$4`)) + headerRow + `(select * from r limit $3)`,
		beyond:       moveBeyond,
		bounds:       heldTarget + atPlace + `),` + fmt.Sprintf(difference, `o.id`, ``) + fmt.Sprintf(boundsOf, ` where r.id + 0 > $4`),
		boundsBehind: heldTarget + whereMoved + `),` + fmt.Sprintf(difference, `o.id`, ``) + fmt.Sprintf(boundsOf, ``),
		rest: heldTarget + atPlace + `)
` + headerRow + `(select ` + outboxColumns + `
  from perdure.outbox o
   where o.id > $5 and o.id <= $6 and o.id > (select at_id from s)
     and pg_visible_in_snapshot(o.xid, (select upto from s)) and not pg_visible_in_snapshot(o.xid, (select prev from s))
   order by o.id limit $4)`,
		sort: sortRows,
	}
}

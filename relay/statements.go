package relay

// The relay's read. Tests change these texts to see that the history checker
// notices; nothing else writes them.

// rowColumns are what a record is made of; see decodeRow.
const rowColumns = `o.id, o.generation, o.epoch, o.created_at, o.deadline, o.kind, o.queue, o.key, o.task_id,
  o.content_type, o.headers, o.payload, o.checked`

// statements are the two reads of a pass. Each is one statement, autocommit,
// READ COMMITTED, in a transaction that owns no xid. The first row that it gives
// is the header (upto, flushed, now, at_id), the others are outbox rows; no row
// at all means that the fence is lost.
//
// flushed compares two WAL positions that are read after the statement's
// snapshot: every commit that the snapshot sees lies before the first of them.
type statements struct {
	// window: $1 shard, $2 fence, $3 rows at most. By (xid, id): new
	// transactions, then those that were open at prev. A short answer ends the window.
	window string
	// rest: also $4, ids to look at. The same set by primary key, for the second
	// and later chunks of a large window; a short answer ends nothing.
	rest string
}

func newStatements() statements {
	const header = `select s.upto::text, s.flushed, now(), s.at_id, null::bigint,
  null::int, null::int, null::timestamptz, null::timestamptz, null::text, null::text, null::text, null::text,
  null::text, null::jsonb, null::bytea, null::boolean, null::boolean from s
union all
select null, null, null, null, c.* from (`
	return statements{
		window: `
with s as materialized (
  select c.prev, coalesce(c.upto, pg_current_snapshot()) as upto, c.at_id,
    pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn() as flushed
  from perdure.relay_cursor c where c.shard = $1 and c.fence = $2),
r as (
  select ` + rowColumns + `, coalesce(o.run_at > now(), false) as later
  from s, perdure.outbox o
   where o.xid >= pg_snapshot_xmax(s.prev) and o.xid < pg_snapshot_xmax(s.upto)
     and pg_visible_in_snapshot(o.xid, s.upto) and o.id > s.at_id
  union all
  select ` + rowColumns + `, coalesce(o.run_at > now(), false)
  from s, pg_snapshot_xip(s.prev) x join perdure.outbox o on o.xid = x
   where pg_visible_in_snapshot(x, s.upto) and o.id > s.at_id)
` + header + `select * from r order by id limit $3) c`,
		rest: `
with s as materialized (
  select c.prev, c.upto, c.at_id,
    pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn() as flushed
  from perdure.relay_cursor c where c.shard = $1 and c.fence = $2)
` + header + `select l.* from s, lateral (
  select ` + rowColumns + `, coalesce(o.run_at > now(), false) as later
  from perdure.outbox o
   where o.id > s.at_id and o.id <= s.at_id + $4
     and pg_visible_in_snapshot(o.xid, s.upto) and not pg_visible_in_snapshot(o.xid, s.prev)
   order by o.id limit $3) l) c`,
	}
}

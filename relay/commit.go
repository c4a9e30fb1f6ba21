package relay

// Moving on: one transaction that moves or holds the cursor under its fence,
// logs what was acknowledged, and files what was not.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/perdure/perdure/internal/relaylog"
)

// atPlace is the cursor's row under our fence, where the term last saw it. $1 shard, $2
// fence, $3 its place.
//
// By its place, because every pass leaves a dead version of the row behind. While
// anyone holds an older snapshot open none of them can be removed, and whatever asks
// by key goes through all of them, some hundred thousand after ten minutes. Only this
// term writes the row, so it knows the place; where somebody else has moved it (a
// take-over, VACUUM FULL), there is nothing at it, and the lease counts as lost.
const atPlace = ` ctid = $3 and shard = $1 and fence = $2`

// The first statement of every commit: it locks the cursor's row or changes nothing. It
// says where the row is now, and tells those after it that it was there.
const (
	// moveWithin begins a large window, or goes on in it.
	moveWithin = `update perdure.relay_cursor set upto = $4::text::pg_snapshot, at_id = $5, moved_at = clock_timestamp()
where` + atPlace + ` returning ctid,` + holds
	// moveBeyond leaves a window behind and takes the target of the next read: the commit
	// puts all that it sees on disk, so that read needs no flush. The snapshot is the
	// statement's, from before its transaction has an xid.
	moveBeyond = `update perdure.relay_cursor set prev = $4::text::pg_snapshot, upto = pg_current_snapshot(), at_id = 0, moved_at = clock_timestamp()
where` + atPlace + ` returning ctid,` + holds + ` || set_config('perdure.relay_place', ctid::text, false)`
	// whereMoved finds the row that moveBeyond has moved, before the answer is here.
	whereMoved = ` ctid = current_setting('perdure.relay_place', true)::tid and shard = $1 and fence = $2`
	// Locked first: FOR UPDATE looks at a row again after what it returns is computed.
	holdCursor = `with c as materialized (select ctid from perdure.relay_cursor where` + atPlace + ` for update) select ctid,` + holds + ` from c`
	holds      = ` set_config('perdure.relay_holds', $1 || ' ' || $2::bigint, true)`
)

// The others take effect only where the first one did, in the same transaction: the
// setting ends with it.
const fenced = ` current_setting('perdure.relay_holds', true) = $1::text || ' ' || $2::bigint`

const (
	logBatch = `insert into perdure.relay_log (shard, first_id, last_id, tasks, replays, hops)
select $1::text, $3::bigint, $4::bigint, $5::int, $6::int, $7::bytea where` + fenced
	fileColumns = `id, generation, epoch, created_at, deadline, kind, queue, key, task_id, content_type, headers, payload, checked`
	// The bounds of the ids tell the partition. In the order in which they will leave, so that those which are due
	// together lie together.
	fileSchedule = exactly + `insert into perdure.scheduled (due, ` + fileColumns + `)
select run_at, ` + fileColumns + ` from perdure.outbox where id = any($3::bigint[]) and id >= $4 and id <= $5 and` + fenced + `
order by run_at, id returning 1` + orElse + `'perdure.scheduled') where` + fenced
	// $8 are the rows that the tasks stand in: a bundle is parked task by task.
	fileParked = exactly + `insert into perdure.parked (why, due, ` + fileColumns + `)
select w.why, case when run_at > created_at then run_at end, ` + fileColumns + ` from perdure.outbox_tasks o join unnest($4::text[], $5::text[]) w(q, why) on w.q = o.queue
where row_id = any($8::bigint[]) and row_id >= $6 and row_id <= $7 and id = any($3::bigint[]) and` + fenced + ` returning 1` + orElse + `'perdure.parked') where` + fenced
	// Not exactly: a person may have taken some out by hand.
	moveParked = `insert into perdure.parked (why, due, ` + fileColumns + `)
select w.why, due, ` + fileColumns + ` from perdure.scheduled o join unnest($4::text[], $5::text[]) w(q, why) on w.q = o.queue
where id = any($3::bigint[]) and` + fenced
	dropScheduled = `delete from perdure.scheduled where id = any($3::bigint[]) and` + fenced
	dropParked    = `delete from perdure.parked where id = any($3::bigint[]) and` + fenced
)

// A row that was to be filed and was not would be lost behind the cursor: then the
// transaction fails.
const (
	exactly = `with filed as (`
	orElse  = `) select perdure.must_be(cardinality($3::bigint[]), (select count(*) from filed), `
)

// commit is the statements of one such transaction, sent in one round trip.
type commit struct {
	t     *term
	batch pgx.Batch
}

func (t *term) commit(first string, args ...any) *commit {
	c := &commit{t: t}
	c.add(first, append([]any{t.place}, args...)...)
	return c
}

func (c *commit) add(sql string, args ...any) {
	c.batch.Queue(sql, append([]any{c.t.r.cfg.Source, c.t.fence}, args...)...)
}

// log adds a row of the relay log. A row never spans two partitions of the
// outbox: which of them are still needed is asked by range.
func (c *commit) log(d *delivery) {
	var replay map[int64]bool
	for i := range d.rows {
		if d.rows[i].taskID != "" {
			if replay == nil {
				replay = make(map[int64]bool)
			}
			replay[d.rows[i].id] = true
		}
	}
	slices.SortFunc(d.hops, func(a, b relaylog.Hop) int { return cmp.Compare(a.ID, b.ID) })
	for hops := d.hops; len(hops) > 0; {
		n, replays := 0, 0
		for n < len(hops) && hops[n].ID/partitionSize == hops[0].ID/partitionSize {
			if replay[hops[n].ID] {
				replays++
			}
			n++
		}
		c.add(logBatch, hops[0].ID, hops[n-1].ID, n-replays, replays, relaylog.Encode(hops[:n]))
		hops = hops[n:]
	}
}

// ids are those of the rows with this fate.
func (d *delivery) ids(f fate) []int64 {
	var ids []int64
	for i := range d.rows {
		if d.fates[i] == f {
			ids = append(ids, d.rows[i].id)
		}
	}
	return ids
}

// rowIDs are those of the rows that hold what has this fate, each once.
func (d *delivery) rowIDs(f fate) []int64 {
	var ids []int64
	for i := range d.rows {
		if n := len(ids); d.fates[i] == f && (n == 0 || ids[n-1] != d.rows[i].rowID) {
			ids = append(ids, d.rows[i].rowID)
		}
	}
	return ids
}

// done is the ids of rows that Kafka has.
func (d *delivery) done() []int64 {
	ids := make([]int64, len(d.hops))
	for i := range d.hops {
		ids[i] = d.hops[i].ID
	}
	return ids
}

// whys are the broken queues and their reasons, as two arrays.
func (t *term) whys() (queues, whys []string) {
	for q, why := range t.parked {
		queues, whys = append(queues, q), append(whys, why)
	}
	return queues, whys
}

// run sends the transaction. errLeaseLost: the fence is another's and nothing
// was changed.
func (c *commit) run(ctx context.Context) error {
	results := c.t.conn.SendBatch(ctx, &c.batch)
	place, err := c.moved(results)
	if cerr := results.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("postgres: move the relay's cursor: %w", cerr)
	}
	if err == nil {
		c.t.place = place
	}
	return err
}

// andRead is the transaction and a read of what lies behind it. The read is not a part
// of it: one whose answer nobody takes must not keep the cursor locked.
func (c *commit) andRead(sql string, args ...any) *pgx.Batch {
	both := &pgx.Batch{}
	both.Queue(`begin`)
	both.QueuedQueries = append(both.QueuedQueries, c.batch.QueuedQueries...)
	both.Queue(`commit`)
	both.Queue(sql, append([]any{c.t.r.cfg.Source, c.t.fence}, args...)...)
	return both
}

// runAndRead sends the transaction, whose first statement is moveBeyond, and the read
// behind it in one round trip. take is given what the read answers.
func (c *commit) runAndRead(ctx context.Context, both *pgx.Batch, take func(pgx.Rows) error) (err error) {
	results := c.t.conn.SendBatch(ctx, both)
	defer func() {
		if cerr := results.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("postgres: read the outbox: %w", cerr)
		}
		if err != nil && !c.t.conn.IsClosed() && c.t.conn.PgConn().TxStatus() != 'I' {
			_, rerr := c.t.conn.Exec(ctx, `rollback`)
			err = errors.Join(err, rerr)
		}
	}()
	if _, err := results.Exec(); err != nil {
		return fmt.Errorf("postgres: move the relay's cursor: %w", err)
	}
	place, err := c.moved(results)
	if err != nil {
		return err
	}
	if _, err := results.Exec(); err != nil {
		return fmt.Errorf("postgres: move the relay's cursor: %w", err)
	}
	c.t.place = place
	rows, err := results.Query()
	if err != nil {
		return fmt.Errorf("postgres: read the outbox: %w", err)
	}
	return take(rows)
}

// andWindow is the transaction and the window behind it.
func (c *commit) andWindow() *pgx.Batch {
	return c.andRead(c.t.r.sql.behind, c.t.limit+1, c.t.bound())
}

// moved takes the answers of the commit's own statements.
func (c *commit) moved(results pgx.BatchResults) (place pgtype.TID, err error) {
	err = results.QueryRow().Scan(&place, nil)
	if errors.Is(err, pgx.ErrNoRows) {
		return place, fmt.Errorf("%w: the cursor has another fence", errLeaseLost)
	}
	for n := c.batch.Len(); err == nil && n > 1; n-- {
		_, err = results.Exec()
	}
	if err != nil {
		return place, fmt.Errorf("postgres: move the relay's cursor: %w", err)
	}
	return place, nil
}

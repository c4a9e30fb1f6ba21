package balance

// Reading Postgres: outbox, filed rows, relay log, letters, replays.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/schemas"
)

// A task accepted since was relayed since, or is not yet relayed; what the
// cursor has not passed has an xid of at least prev's xmin.
const findSpan = `
select coalesce(case when $2::timestamptz is null then (select min(id) from perdure.outbox) else least(
    (select min(first_id) from perdure.relay_log where relayed_at >= $2),
    (select min(o.id) from perdure.outbox o, perdure.relay_cursor c where c.shard = $1 and o.xid >= pg_snapshot_xmin(c.prev)),
    (select min(id) from perdure.scheduled), (select min(id) from perdure.parked), (select min(id) from perdure.held),
    case when not exists (select from perdure.relay_cursor where shard = $1) then (select min(id) from perdure.outbox) end) end, 0),
  coalesce((select id + coalesce(cardinality(ends), 1) - 1 from perdure.outbox order by id desc limit 1), -1)`

func (c *computation) sinceOrNil() *time.Time {
	if c.since.IsZero() {
		return nil
	}
	return &c.since
}

// span is the ids to look at; hi < lo if there is none.
func (c *computation) span(ctx context.Context) (lo, hi int64, err error) {
	if err := c.DB.QueryRow(ctx, findSpan, c.Source, c.sinceOrNil()).Scan(&lo, &hi); err != nil {
		return 0, 0, fmt.Errorf("find the outbox's ids: %w", err)
	}
	return lo, hi, nil
}

const (
	readOutbox = `
select o.id, o.generation, o.task_id is not null, coalesce(pg_visible_in_snapshot(o.xid, c.prev), false)
from perdure.outbox_tasks o left join perdure.relay_cursor c on c.shard = $1
where o.id >= $2 and o.id < $3 and o.row_id > $2 - 64 and o.row_id < $3 and o.kind <> 'perdure.line' and ($4::timestamptz is null or o.created_at >= $4) order by o.id`
	readFiled = `
select id, 'scheduled' from perdure.scheduled where id >= $1 and id < $2
union all select id, 'parked' from perdure.parked where id >= $1 and id < $2
union all select id, 'held' from perdure.held where id >= $1 and id < $2`
	readLog = `
select relayed_at, hops from perdure.relay_log where int8range(first_id, last_id, '[]') && int8range($1, $2) order by batch`
)

// accepted reads the tasks of a range of ids, with where their rows went.
func (c *computation) accepted(ctx context.Context, lo, hi int64) (list []*task, replays int64, err error) {
	rows, err := c.DB.Query(ctx, readOutbox, c.Source, lo, hi, c.sinceOrNil())
	if err != nil {
		return nil, 0, fmt.Errorf("read the outbox: %w", err)
	}
	at := map[int64]*task{}
	t, isReplay := &task{}, false
	_, err = pgx.ForEachRow(rows, []any{&t.seq, &t.generation, &isReplay, &t.passed}, func() error {
		if isReplay {
			replays++
			return nil
		}
		row := *t
		list = append(list, &row)
		at[row.seq] = &row
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the outbox: %w", err)
	}
	if len(list) == 0 {
		return nil, replays, nil
	}
	if rows, err = c.DB.Query(ctx, readFiled, lo, hi); err != nil {
		return nil, 0, fmt.Errorf("read filed rows: %w", err)
	}
	var id int64
	var where string
	if _, err = pgx.ForEachRow(rows, []any{&id, &where}, func() error {
		if t := at[id]; t != nil {
			t.filed = where
		}
		return nil
	}); err != nil {
		return nil, 0, fmt.Errorf("read filed rows: %w", err)
	}
	if rows, err = c.DB.Query(ctx, readLog, lo, hi); err != nil {
		return nil, 0, fmt.Errorf("read the relay log: %w", err)
	}
	var relayed time.Time
	var coded []byte
	if _, err = pgx.ForEachRow(rows, []any{&relayed, &coded}, func() error {
		hops, err := relaylog.Decode(coded)
		if err != nil {
			return err
		}
		for _, h := range hops {
			if t := at[h.ID]; t != nil && t.hop == nil {
				t.hop = &hop{topic: h.Topic, partition: h.Partition, offset: h.Offset, at: relayed}
			}
		}
		return nil
	}); err != nil {
		return nil, 0, fmt.Errorf("read the relay log: %w", err)
	}
	return list, replays, nil
}

// An undecodable letter only claims to be a task's: it counts where it is the
// very record that the relay produced.
const readLetters = `
select distinct on (task_id) task_id, letter, case when reason = 'undecodable' then -1 else epoch end, state, resolved_by,
  reason = 'undecodable', origin_topic, origin_partition, origin_offset
from perdure.dead_letters where task_id = any($1::text[])
order by task_id, reason = 'undecodable', epoch desc`

const readReplays = `
select distinct on (l.letter) l.letter, l.seq, o.id is not null, coalesce(pg_visible_in_snapshot(o.xid, c.prev), false),
  case when exists (select from perdure.scheduled s where s.id = l.seq) then 'scheduled'
       when exists (select from perdure.parked p where p.id = l.seq) then 'parked'
       when exists (select from perdure.held h where h.id = l.seq) then 'held' else '' end
from (
  select letter, seq from perdure.replay_letters where letter = any($1::text[]) and result = 'replayed'
  union all select letter, released from perdure.dead_letters where letter = any($1::text[]) and released is not null -- by a lift
) l
  left join perdure.outbox o on o.id = l.seq
  left join perdure.relay_cursor c on c.shard = $2
order by l.letter, l.seq desc`

// deaths reads the newest letter of each task, and the newest replay of those
// that were replayed.
func (c *computation) deaths(ctx context.Context, list []*task) error {
	ids := make([]string, len(list))
	at := make(map[string]*task, len(list))
	for i, t := range list {
		ids[i] = t.id(c.Source)
		at[ids[i]] = t
	}
	rows, err := c.DB.Query(ctx, readLetters, ids)
	if err != nil {
		return fmt.Errorf("read letters: %w", err)
	}
	replayed := map[string]*task{}
	var (
		id, state, topic string
		l                letter
		unreadable       bool
		partition        int32
		offset           int64
	)
	if _, err = pgx.ForEachRow(rows, []any{&id, &l.id, &l.epoch, &state, &l.by, &unreadable, &topic, &partition, &offset}, func() error {
		t := at[id]
		if unreadable && (t.hop == nil || t.hop.topic != topic || t.hop.partition != partition || t.hop.offset != offset) {
			return nil
		}
		row := l
		row.epoch, row.state = max(row.epoch, 0), schemas.LetterState(state)
		t.letter = &row
		if row.state == schemas.LetterReplaying || row.state == schemas.LetterResolved && row.by == "replay" {
			replayed[row.id] = t
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read letters: %w", err)
	}
	return c.replayed(ctx, replayed)
}

func (c *computation) replayed(ctx context.Context, of map[string]*task) error {
	if len(of) == 0 {
		return nil
	}
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	rows, err := c.DB.Query(ctx, readReplays, names, c.Source)
	if err != nil {
		return fmt.Errorf("read replays: %w", err)
	}
	var name string
	var r replay
	if _, err = pgx.ForEachRow(rows, []any{&name, &r.seq, &r.found, &r.passed, &r.filed}, func() error {
		row := r
		of[name].replay = &row
		return nil
	}); err != nil {
		return fmt.Errorf("read replays: %w", err)
	}
	for _, t := range of {
		if t.replay == nil {
			continue
		}
		h, batch, ok, err := relaylog.Find(ctx, c.DB, t.replay.seq)
		if err != nil {
			return err
		}
		if ok {
			t.replay.hop = &hop{topic: h.Topic, partition: h.Partition, offset: h.Offset, at: batch.RelayedAt}
		}
	}
	return nil
}

// strays counts open letters that belong to no task of this source.
func (c *computation) strays(ctx context.Context) error {
	err := c.DB.QueryRow(ctx, `select count(*) from perdure.dead_letters
where state in ('open', 'held') and (task_id is null or reason = 'undecodable')
  and ($1::timestamptz is null or died_at >= $1)`, c.sinceOrNil()).Scan(&c.report.Strays)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("count strays: %w", err)
	}
	return nil
}

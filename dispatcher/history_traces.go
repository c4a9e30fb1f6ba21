package dispatcher

// The traces of a task: outbox row, relay log, letters, replays, events.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/schemas"
)

// maxEvents bounds the events of one answer; the latest stay.
const maxEvents = 1000

type traces struct {
	id       schemas.ID
	text     string
	row      outboxTrace
	seqKnown bool   // the sequence has given this seq out, in this generation
	unique   string // the unique key that it holds until it is completed; "" = none
	kept     bool   // rows older than this seq are still kept, so its own would be
	hops     []hopTrace
	letters  []letterTrace
	events   []eventTrace
	claim    claims.Claim
}

type outboxTrace struct {
	found            bool
	place            string // outbox, scheduled, parked, held
	why              string // parked, held
	kind, queue, key string
	created          time.Time
	due, deadline    *time.Time
}

// hopTrace is the way of one outbox row: the task's own, then each replay's.
type hopTrace struct {
	seq    int64
	epoch  int
	hop    relaylog.Hop
	at     time.Time
	ok     bool
	replay string    // "" = the task's own row
	began  time.Time // when the replay wrote it
	letter string
}

type letterTrace struct {
	id, state, reason, class, message, resolvedBy string
	kind, queue, key                              string
	epoch                                         int
	run                                           int64
	died, changed                                 time.Time
	topic                                         string
	partition                                     int32
	offset                                        int64
	attempts                                      json.RawMessage
}

type eventTrace struct {
	epoch, attempt               int
	run                          int64
	kind, worker, class, message string
	at                           time.Time
	data                         json.RawMessage
}

// A row that was filed is still in the outbox: the filed copy says more.
const findRow = `
select 'held', 'taken out of the way by an outbox reset: release or discard it', kind, queue, coalesce(key, ''), created_at,
  null::timestamptz, deadline, 0 from perdure.held
  where id = $1 and generation = $2 and task_id is null
union all
select 'parked', why, kind, queue, coalesce(key, ''), created_at, null::timestamptz, deadline, 1 from perdure.parked
  where id = $1 and generation = $2 and task_id is null
union all
select 'scheduled', '', kind, queue, coalesce(key, ''), created_at, due, deadline, 2 from perdure.scheduled
  where id = $1 and generation = $2 and task_id is null
union all
select 'outbox', '', kind, queue, coalesce(key, ''), created_at, run_at, deadline, 3 from perdure.outbox_task($1)
  where generation = $2 and task_id is null
order by 9 limit 1`

// Rows leave the outbox by whole partitions, oldest first: while an older row is
// there, this one would be.
const findSeq = `
select s.generation, q.last_value >= $1 and q.is_called, exists (select from perdure.outbox where id < $1),
  coalesce((select u.key from perdure.unique_keys u where u.seq = $1 and u.generation = $2 and u.expires = 'infinity'), '')
from perdure.source s, perdure.outbox_id_seq q`

const findLetters = `
select letter, state, reason, error_class, message, resolved_by, coalesce(kind, ''), queue, coalesce(key, ''), epoch, run, died_at, changed_at,
  dlq_topic, dlq_partition, dlq_offset, attempts
from perdure.dead_letters where task_id = $1 and reason <> 'undecodable' order by epoch, died_at`

const findReplays = `
select l.seq, l.replay, l.letter, l.done_at, d.epoch + 1
from perdure.dead_letters d join perdure.replay_letters l on l.letter = d.letter
where d.task_id = $1 and l.result = 'replayed'
union all select released, '', letter, changed_at, epoch + 1 from perdure.dead_letters where task_id = $1 and released is not null -- by a lift
order by 5, 4`

const findEvents = `
select epoch, attempt, run, type, worker, error_class, message, at, data from (
  select * from perdure.events where task_id = $1 order by at desc limit $2) e order by at`

func (t *traces) read(ctx context.Context, db relaylogDB) error {
	var rank int
	r := &t.row
	err := db.QueryRow(ctx, findRow, t.id.Seq, t.id.Generation).
		Scan(&r.place, &r.why, &r.kind, &r.queue, &r.key, &r.created, &r.due, &r.deadline, &rank)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("find its outbox row: %w", err)
	}
	r.found = err == nil
	var generation int
	var given, kept bool
	if err := db.QueryRow(ctx, findSeq, t.id.Seq, t.id.Generation).Scan(&generation, &given, &kept, &t.unique); err != nil {
		return fmt.Errorf("read the outbox's sequence: %w", err)
	}
	t.seqKnown = given && t.id.Generation <= generation
	t.kept = kept && t.id.Generation == generation
	if t.letters, err = collect(ctx, db, findLetters, func(row pgx.CollectableRow) (l letterTrace, err error) {
		return l, row.Scan(&l.id, &l.state, &l.reason, &l.class, &l.message, &l.resolvedBy, &l.kind, &l.queue, &l.key, &l.epoch, &l.run,
			&l.died, &l.changed, &l.topic, &l.partition, &l.offset, &l.attempts)
	}, t.text); err != nil {
		return fmt.Errorf("find its letters: %w", err)
	}
	if t.events, err = collect(ctx, db, findEvents, func(row pgx.CollectableRow) (e eventTrace, err error) {
		return e, row.Scan(&e.epoch, &e.attempt, &e.run, &e.kind, &e.worker, &e.class, &e.message, &e.at, &e.data)
	}, t.text, maxEvents); err != nil {
		return fmt.Errorf("find its events: %w", err)
	}
	return t.readHops(ctx, db)
}

// readHops follows the task's own row and those of its replays into Kafka.
func (t *traces) readHops(ctx context.Context, db relaylogDB) error {
	replays, err := collect(ctx, db, findReplays, func(row pgx.CollectableRow) (h hopTrace, err error) {
		return h, row.Scan(&h.seq, &h.replay, &h.letter, &h.began, &h.epoch)
	}, t.text)
	if err != nil {
		return fmt.Errorf("find its replays: %w", err)
	}
	all := append([]hopTrace{{seq: t.id.Seq}}, replays...)
	for i := range all {
		hop, batch, ok, err := relaylog.Find(ctx, db, all[i].seq)
		if err != nil {
			return err
		}
		all[i].hop, all[i].at, all[i].ok = hop, batch.RelayedAt, ok
	}
	// The log knows ids, not tasks: this one may be a replay's row, or of another
	// generation.
	if !t.row.found {
		all = all[1:]
	}
	t.hops = all
	return nil
}

// relaylogDB is what reading needs of a pool or a transaction.
type relaylogDB interface {
	relaylog.Querier
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func collect[T any](ctx context.Context, db relaylogDB, sql string, scan pgx.RowToFunc[T], args ...any) ([]T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

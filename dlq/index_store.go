package dlq

// One transaction a batch. Whatever order records come in, and however often,
// the rows end the same:
//
//   - a letter is inserted once, by its ID; what people did to it stays
//   - a task that is resolved has no unresolved letter: done is absorbing
//   - of one task only the letter of the highest epoch can be open: it died
//     again, so its earlier death is no longer the one to mend
//   - a task that has ended holds no unique key; a dead one does
//   - one that waits behind a letter of its key is held: only a lift takes it

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const insertResolutions = `
insert into perdure.resolutions as r (task_id, epoch, at)
select distinct on (t) t, e, a from unnest($1::text[], $2::int[], $3::timestamptz[]) u(t, e, a) order by t, e desc
on conflict (task_id) do update set epoch = excluded.epoch, at = excluded.at where excluded.epoch > r.epoch`

const insertLetters = `
insert into perdure.dead_letters (letter, state, task_id, epoch, kind, queue, key, reason, error_class, message, fingerprint, joined_from,
  attempts, run, release, catalog, record_key, headers, payload, content_type, deadline,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, cut, block, blocked_by, place)
select letter, case when reason = 'blocked' then 'held' else 'open' end, nullif(task_id, ''), epoch, nullif(kind, ''), queue, nullif(key, ''), reason, error_class, message,
  coalesce(a.root, fingerprint), case when a.root is not null then fingerprint end,
  attempts, run, release, catalog, record_key, headers, payload, content_type, deadline,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, cut, block, blocked_by, place
from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
  $11::jsonb[], $12::bigint[], $13::text[], $14::text[], $15::bytea[], $16::jsonb[], $17::bytea[], $18::text[], $19::timestamptz[],
  $20::text[], $21::int[], $22::bigint[], $23::text[], $24::int[], $25::bigint[], $26::timestamptz[], $27::bool[],
  $28::bool[], $29::text[], $30::bigint[])
  u(letter, task_id, epoch, kind, queue, key, reason, error_class, message, fingerprint,
  attempts, run, release, catalog, record_key, headers, payload, content_type, deadline,
  origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at, cut, block, blocked_by, place)
left join lateral (select perdure.group_of(g.fingerprint) as root from perdure.group_aliases g where g.fingerprint = u.fingerprint and g.into_group is not null) a on true
on conflict (letter) do nothing`

// Rows are locked in one order, the letter's, as the replayer locks them.
const settleResolved = `
with l as materialized (
  select letter from perdure.dead_letters d
  where task_id = any($1::text[]) and state in ('open', 'held', 'replaying') and reason <> 'undecodable'
    and exists (select from perdure.resolutions r where r.task_id = d.task_id)
  order by letter for update)
update perdure.dead_letters d set state = 'resolved', resolved_by = 'completed', changed_at = clock_timestamp()
from l where d.letter = l.letter`

const settleReplayed = `
with l as materialized (
  select letter from perdure.dead_letters d
  where task_id = any($1::text[]) and state in ('open', 'held', 'replaying') and reason <> 'undecodable'
    and exists (select from perdure.dead_letters n where n.task_id = d.task_id and n.epoch > d.epoch and n.reason <> 'undecodable')
  order by letter for update)
update perdure.dead_letters d set state = 'resolved', resolved_by = 'replay', changed_at = clock_timestamp()
from l where d.letter = l.letter`

// A replayed letter that is settled is an outcome of its replay. A statement of
// its own: it must see what the statements before it waited for.
const noteOutcomes = `
insert into perdure.replay_outcomes (replay, n, outcome, fingerprint, same)
select l.replay, l.n, case when n.fingerprint is null then 'completed' else 'died_again' end,
  coalesce(n.fingerprint, ''), coalesce(n.fingerprint = d.fingerprint, false)
from perdure.dead_letters d
join perdure.replay_letters l on l.letter = d.letter and l.result = 'replayed' and l.outcome = ''
left join lateral (
  select x.fingerprint from perdure.dead_letters x where x.task_id = d.task_id and x.epoch > d.epoch and x.reason <> 'undecodable'
  order by x.epoch limit 1) n on true
where d.task_id = any($1::text[]) and d.state = 'resolved' and d.reason <> 'undecodable'
on conflict do nothing`

const insertEvents = `
insert into perdure.events (topic, partition, "offset", task_id, epoch, attempt, run, type, at, worker, error_class, message, data)
select * from unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::int[], $6::int[], $7::bigint[], $8::text[],
  $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::jsonb[])
on conflict do nothing`

// Last of what concerns letters: whoever reads an answer has read the letters
// made before it. An answer to a lift that is over wants its end again.
const noteAnswers = `select perdure.answer_lift(q, k, t, n, b) from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) u(q, k, t, n, b)`

const releaseKeys = `select perdure.release_unique($1)`

// beginner is a pool, or one session.
type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// store writes the batch in one transaction.
func (x *Index) store(ctx context.Context, b *batch) error {
	if err := x.fileTexts(ctx, b); err != nil {
		return err
	}
	var db beginner = x.deps.DB
	if x.session != nil {
		db = x.session
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		q := &pgx.Batch{}
		tasks := b.queueResolved(q)
		tasks = append(tasks, b.queueLetters(q)...)
		if x.session != nil && len(b.letters) > 0 {
			q.Queue(restoreDecided, b.ids())
		}
		if len(tasks) > 0 {
			q.Queue(settleResolved, tasks)
			q.Queue(settleReplayed, tasks)
			q.Queue(noteOutcomes, tasks)
		}
		if x.session == nil { // an answer of long ago is not one to the lift that is under way now
			b.queueAnswers(q)
		}
		b.queueEvents(q)
		if len(b.ended) > 0 { // last: whoever locks letters and keys does it in this order
			q.Queue(releaseKeys, b.ended)
		}
		if q.Len() == 0 {
			return nil
		}
		if err := tx.SendBatch(ctx, q).Close(); err != nil {
			return fmt.Errorf("index %d letters, %d resolutions, %d events: %w", len(b.letters), len(b.resolved), len(b.events), err)
		}
		return nil
	})
}

func (b *batch) ids() []string {
	ids := make([]string, len(b.letters))
	for i := range b.letters {
		ids[i] = b.letters[i].id
	}
	return ids
}

func (b *batch) queueResolved(q *pgx.Batch) (tasks []string) {
	if len(b.resolved) == 0 {
		return nil
	}
	epochs, ats := make([]int32, len(b.resolved)), make([]time.Time, len(b.resolved))
	for i, r := range b.resolved {
		tasks = append(tasks, r.TaskID)
		epochs[i], ats[i] = int32(r.Epoch), sane(r.At)
	}
	q.Queue(insertResolutions, tasks, epochs, ats)
	return tasks
}

func (b *batch) queueLetters(q *pgx.Batch) (tasks []string) {
	n := len(b.letters)
	if n == 0 {
		return nil
	}
	texts := make([][]string, 15) // one backing slice a text column
	for i := range texts {
		texts[i] = make([]string, n)
	}
	var (
		epoch, originPart, dlqPart   = make([]int32, n), make([]int32, n), make([]int32, n)
		run, originOffset, dlqOffset = make([]int64, n), make([]int64, n), make([]int64, n)
		attempts, headers            = make([][]byte, n), make([][]byte, n)
		recordKey, payload           = make([][]byte, n), make([][]byte, n)
		died, cut                    = make([]time.Time, n), make([]bool, n)
		deadline                     = make([]*time.Time, n)
		block, place                 = make([]bool, n), make([]int64, n)
	)
	for i := range b.letters {
		l := &b.letters[i]
		for c, s := range [...]string{l.id, l.TaskID, l.Kind, l.queue, l.key, string(l.Reason), l.ErrorClass, l.Message,
			l.Fingerprint, l.Release, l.Catalog, l.contentType, l.Origin.Topic, l.at.Topic, l.BlockedBy} {
			texts[c][i] = s
		}
		epoch[i], originPart[i], dlqPart[i] = int32(l.Epoch), l.Origin.Partition, l.at.Partition
		run[i], originOffset[i], dlqOffset[i] = l.Run, l.Origin.Offset, l.at.Offset
		attempts[i], headers[i], recordKey[i], payload[i] = l.attempts, l.headers, l.Key, l.Value
		died[i], cut[i], deadline[i] = l.DiedAt, l.Cut, l.deadline
		block[i], place[i] = l.Block, l.place
		if l.TaskID != "" {
			tasks = append(tasks, l.TaskID)
		}
	}
	q.Queue(insertLetters, texts[0], texts[1], epoch, texts[2], texts[3], texts[4], texts[5], texts[6], texts[7], texts[8],
		attempts, run, texts[9], texts[10], recordKey, headers, payload, texts[11], deadline,
		texts[12], originPart, originOffset, texts[13], dlqPart, dlqOffset, died, cut,
		block, texts[14], place)
	return tasks
}

func (b *batch) queueAnswers(q *pgx.Batch) {
	n := len(b.answers)
	if n == 0 {
		return
	}
	queues, keys, tasks, blocks, lifts := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]int64, n)
	for i, a := range b.answers {
		queues[i], keys[i], tasks[i], lifts[i] = a.Queue, a.Key, a.TaskID, a.Lift
		blocks[i] = strings.Join(a.Blocks, " ")
	}
	q.Queue(noteAnswers, queues, keys, tasks, lifts, blocks)
}

func (b *batch) queueEvents(q *pgx.Batch) {
	n := len(b.events)
	if n == 0 {
		return
	}
	texts := make([][]string, 6)
	for i := range texts {
		texts[i] = make([]string, n)
	}
	var (
		part, epoch, attempt = make([]int32, n), make([]int32, n), make([]int32, n)
		offset, run          = make([]int64, n), make([]int64, n)
		at, data             = make([]time.Time, n), make([][]byte, n)
	)
	for i := range b.events {
		e := &b.events[i]
		for c, s := range [...]string{e.at.Topic, e.TaskID, string(e.Type), e.Worker, e.ErrorClass, e.Message} {
			texts[c][i] = s
		}
		part[i], offset[i], epoch[i], attempt[i], run[i] = e.at.Partition, e.at.Offset, int32(e.Epoch), int32(e.Attempt), e.Run
		at[i], data[i] = sane(e.At), e.Data
	}
	q.Queue(insertEvents, texts[0], part, offset, texts[1], epoch, attempt, run, texts[2], at, texts[3], texts[4], texts[5], data)
}

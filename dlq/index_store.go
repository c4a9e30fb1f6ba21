package dlq

// One transaction a batch. Whatever order records come in, and however often,
// the rows end the same:
//
//   - a letter is inserted once, by its ID; what people did to it stays
//   - a task that is resolved has no unresolved letter: done is absorbing, also for
//     one that was cancelled
//   - of one task only the letter of the highest epoch can be open: it died
//     again, so its earlier death is no longer the one to mend
//   - a task that has ended holds no unique key; a dead one does
//   - one that waits behind a letter of its key is held: only a lift takes it

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

const insertResolutions = `
insert into perdure.resolutions as r (task_id, epoch, at, outcome)
select distinct on (t) t, e, a, o from unnest($1::text[], $2::int[], $3::timestamptz[], $4::text[]) u(t, e, a, o) order by t, o = 'completed' desc, e desc
on conflict (task_id) do update set epoch = excluded.epoch, at = excluded.at, outcome = excluded.outcome
where excluded.outcome = 'completed' and r.outcome <> 'completed' or excluded.outcome = r.outcome and excluded.epoch > r.epoch`

// What of a batch's letters is there already, and which of its causes people joined
// to another. Aliases stay as they were read until this commits (join.go).
const (
	databaseTime = `select clock_timestamp()`
	knownLetters = `select letter from perdure.letters where letter = any($1::text[])`
	joinedCauses = `select fingerprint, perdure.group_of(fingerprint) from perdure.group_aliases where fingerprint = any($1::text[]) and into_group is not null`
)

// A letter is two rows: what it is, and what becomes of it. The times have defaults that
// would have COPY insert row by row.
var (
	letterColumns = []string{"letter", "task_id", "epoch", "kind", "queue", "key", "reason", "error_class", "message",
		"attempts", "run", "release", "catalog", "record_key", "headers", "payload", "content_type", "deadline",
		"origin_topic", "origin_partition", "origin_offset", "dlq_topic", "dlq_partition", "dlq_offset", "died_at", "cut", "block", "blocked_by", "place", "indexed_at"}
	stateColumns = []string{"letter", "state", "fingerprint", "joined_from", "died_at", "kind", "queue", "reason", "release", "epoch", "block", "line", "place", "changed_at"}
)

// Of most tasks there is nothing to settle: one letter, and no resolution.
const toSettle = `
select t from unnest($1::text[]) t
where exists (select from perdure.resolutions r where r.task_id = t)
  or exists (select from perdure.letters d where d.task_id = t offset 1)`

// Rows are locked in one order, the letter's, as the replayer locks them.
const settleResolved = `
with l as materialized (
  select d.letter, r.outcome from perdure.letters t join perdure.letter_states d on d.letter = t.letter join perdure.resolutions r on r.task_id = t.task_id
  where t.task_id = any($1::text[]) and t.reason <> 'undecodable'
    and (d.state in ('open', 'held', 'replaying') or d.resolved_by = 'cancelled' and r.outcome = 'completed')
  order by d.letter for update of d)
update perdure.letter_states d set state = 'resolved', resolved_by = l.outcome, changed_at = clock_timestamp()
from l where d.letter = l.letter`

const settleReplayed = `
with l as materialized (
  select d.letter from perdure.letters t join perdure.letter_states d on d.letter = t.letter
  where t.task_id = any($1::text[]) and d.state in ('open', 'held', 'replaying') and t.reason <> 'undecodable'
    and exists (select from perdure.letters n where n.task_id = t.task_id and n.epoch > t.epoch and n.reason <> 'undecodable')
  order by d.letter for update of d)
update perdure.letter_states d set state = 'resolved', resolved_by = 'replay', changed_at = clock_timestamp()
from l where d.letter = l.letter`

// A replayed letter that is settled is an outcome of its replay. A statement of
// its own: it must see what the statements before it waited for.
const noteOutcomes = `
insert into perdure.replay_outcomes (replay, n, outcome, fingerprint, same)
select l.replay, l.n, case when n.fingerprint is not null then 'died_again' when d.resolved_by = 'cancelled' then 'cancelled' else 'completed' end,
  coalesce(n.fingerprint, ''), coalesce(n.fingerprint = d.fingerprint, false)
from perdure.letters t join perdure.letter_states d on d.letter = t.letter
join perdure.replay_letters l on l.letter = d.letter and l.result = 'replayed' and l.outcome = ''
left join lateral (
  select s.fingerprint from perdure.letters x join perdure.letter_states s on s.letter = x.letter where x.task_id = t.task_id and x.epoch > t.epoch and x.reason <> 'undecodable'
  order by x.epoch limit 1) n on true
where t.task_id = any($1::text[]) and d.state = 'resolved' and d.reason <> 'undecodable'
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
	if err := x.succeed(ctx, b); err != nil {
		return err
	}
	if err := x.fileTexts(ctx, b); err != nil {
		return err
	}
	var db beginner = x.deps.DB
	if x.session != nil {
		db = x.session
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := b.copyLetters(ctx, tx); err != nil {
			return err
		}
		q := &pgx.Batch{}
		b.queueResolved(q)
		if x.session != nil && len(b.letters) > 0 {
			q.Queue(restoreDecided, b.ids())
		}
		var settle []string
		if tasks := b.tasks(); x.session != nil {
			settle = tasks // a restored letter may be settled without a resolution
		} else if len(tasks) > 0 {
			q.Queue(toSettle, tasks).Query(func(rows pgx.Rows) (err error) {
				settle, err = pgx.CollectRows(rows, pgx.RowTo[string])
				return err
			})
		}
		if err := tx.SendBatch(ctx, q).Close(); err != nil {
			return fmt.Errorf("index %d letters, %d resolutions: %w", len(b.letters), len(b.resolved), err)
		}
		q = &pgx.Batch{}
		if len(settle) > 0 {
			q.Queue(settleResolved, settle)
			q.Queue(settleReplayed, settle)
			q.Queue(noteOutcomes, settle)
		}
		if x.session == nil { // an answer of long ago is not one to the lift that is under way now
			b.queueAnswers(q)
		}
		b.queueEvents(q)
		if len(b.ended) > 0 { // last: whoever locks letters and keys does it in this order
			q.Queue(releaseKeys, b.ended)
		}
		if err := tx.SendBatch(ctx, q).Close(); err != nil {
			return fmt.Errorf("index %d letters, %d resolutions, %d events: %w", len(b.letters), len(b.resolved), len(b.events), err)
		}
		return nil
	})
}

// tasks are those whose letters may be settled by this batch.
func (b *batch) tasks() []string {
	tasks := make([]string, 0, len(b.letters)+len(b.resolved))
	for _, r := range b.resolved {
		tasks = append(tasks, r.TaskID)
	}
	for i := range b.letters {
		if t := b.letters[i].TaskID; t != "" {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// copyLetters writes the letters that are not there. Another process that writes one
// of them meanwhile is waited for, and then the whole batch is tried again.
func (b *batch) copyLetters(ctx context.Context, tx pgx.Tx) error {
	if len(b.letters) == 0 {
		return nil
	}
	causes := map[string]bool{}
	for i := range b.letters {
		causes[b.letters[i].Fingerprint] = true
	}
	joined := map[string]string{} // cause → group
	written := map[string]bool{}  // letters that are there, or stand further ahead in the batch
	var now time.Time
	q := &pgx.Batch{}
	q.Queue(shareAliases)
	q.Queue(databaseTime).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	q.Queue(knownLetters, b.ids()).Query(func(rows pgx.Rows) error {
		var letter string
		_, err := pgx.ForEachRow(rows, []any{&letter}, func() error { written[letter] = true; return nil })
		return err
	})
	q.Queue(joinedCauses, slices.Collect(maps.Keys(causes))).Query(func(rows pgx.Rows) error {
		var fp, root string
		_, err := pgx.ForEachRow(rows, []any{&fp, &root}, func() error { joined[fp] = root; return nil })
		return err
	})
	if err := tx.SendBatch(ctx, q).Close(); err != nil {
		return fmt.Errorf("look for %d letters: %w", len(b.letters), err)
	}
	fresh := make([]*letterRow, 0, len(b.letters))
	for i := range b.letters {
		if l := &b.letters[i]; !written[l.id] {
			written[l.id], fresh = true, append(fresh, l)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	for _, to := range []struct {
		table   string
		columns []string
		row     func(*letterRow) []any
	}{
		{"letters", letterColumns, func(l *letterRow) []any { return append(l.values(), now) }},
		{"letter_states", stateColumns, func(l *letterRow) []any { return append(l.states(joined), now) }},
	} {
		src := pgx.CopyFromSlice(len(fresh), func(i int) ([]any, error) { return to.row(fresh[i]), nil })
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"perdure", to.table}, to.columns, src); err != nil {
			return fmt.Errorf("index %d letters: %w", len(b.letters), err)
		}
	}
	return nil
}

// values are a letter's letterColumns, but for the time.
func (l *letterRow) values() []any {
	return []any{l.id, orNull(l.TaskID), int32(l.Epoch), orNull(l.Kind), l.queue, orNull(l.key), string(l.Reason), l.ErrorClass, l.Message,
		l.attempts, l.Run, l.Release, l.Catalog, l.Key, l.headers, l.Value, l.contentType, l.deadline,
		l.Origin.Topic, l.Origin.Partition, l.Origin.Offset, l.at.Topic, l.at.Partition, l.at.Offset, l.DiedAt, l.Cut, l.Block, l.BlockedBy, l.place}
}

// states are a letter's stateColumns, but for the time.
func (l *letterRow) states(joined map[string]string) []any {
	state, group, own := schemas.LetterOpen, l.Fingerprint, any(nil)
	if l.Reason == schemas.ReasonBlocked {
		state = schemas.LetterHeld
	}
	if root, ok := joined[group]; ok {
		group, own = root, l.Fingerprint
	}
	var line, place any // only where the key stands in one
	if l.Block || l.Reason == schemas.ReasonBlocked {
		line, place = orNull(l.key), l.place
	}
	return []any{l.id, string(state), group, own, l.DiedAt, orNull(l.Kind), l.queue, string(l.Reason), l.Release, int32(l.Epoch), l.Block, line, place}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (b *batch) ids() []string {
	ids := make([]string, len(b.letters))
	for i := range b.letters {
		ids[i] = b.letters[i].id
	}
	return ids
}

func (b *batch) queueResolved(q *pgx.Batch) {
	n := len(b.resolved)
	if n == 0 {
		return
	}
	tasks, epochs, ats, outcomes := make([]string, n), make([]int32, n), make([]time.Time, n), make([]string, n)
	for i, r := range b.resolved {
		tasks[i], epochs[i], ats[i], outcomes[i] = r.TaskID, int32(r.Epoch), sane(r.At), outcomeCompleted
		if r.Cancelled {
			outcomes[i] = outcomeCancelled
		}
	}
	q.Queue(insertResolutions, tasks, epochs, ats, outcomes)
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

package replayer

// One slice of a job: read letters, read their claims, move or refuse each.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

const nextLetters = `
select rl.n, rl.letter, d.letter is not null, coalesce(d.task_id, ''), coalesce(d.epoch, 0), coalesce(d.kind, ''), coalesce(d.queue, ''),
  coalesce(d.state, ''), coalesce(d.reason, ''), coalesce(d.run, 0), coalesce(d.cut, false), coalesce(length(d.payload), 0),
  d.record_key, d.headers, coalesce(d.deadline <= clock_timestamp(), false)
from perdure.replay_letters rl left join perdure.dead_letters d on d.letter = rl.letter
where rl.replay = $1 and rl.result = '' order by rl.n limit $2`

// moveLetter is the whole of a replay: either all of it happens, once, or none.
// READ COMMITTED: a rival's update of the letter is waited for, and then seen.
const moveLetter = `
with l as (
  update perdure.dead_letters d set state = 'replaying', replays = replays + 1, changed_at = clock_timestamp()
  where d.letter = $3 and d.epoch = $4 and d.state = 'open'
    and exists (select from perdure.replay_letters where replay = $1 and n = $2 and result = '')
    and exists (select from perdure.replays where replay = $1 and state = 'running')
  returning d.task_id, d.epoch, d.kind, d.queue, d.payload, d.deadline),
o as (
  insert into perdure.outbox (epoch, task_id, kind, queue, key, content_type, headers, payload, deadline)
  select l.epoch + 1, l.task_id, l.kind, l.queue, $5, $6, $7::jsonb, l.payload, l.deadline from l
  returning id),
a as (
  insert into perdure.audit (who, what, letter, replay, why, details)
  select $8, 'letter.replay', $3, $1, $9, jsonb_build_object('outbox', o.id) from o)
update perdure.replay_letters set result = 'replayed', seq = o.id, done_at = clock_timestamp()
from o where replay = $1 and n = $2
returning seq`

const refuseLetter = `
update perdure.replay_letters set result = $3, detail = $4, done_at = clock_timestamp()
where replay = $1 and n = $2 and result = ''`

// settle closes the letters of a task that turned out to be completed.
const settle = `
with l as (
  update perdure.dead_letters set state = 'resolved', resolved_by = 'completed', changed_at = clock_timestamp()
  where task_id = $1 and state = 'open' and reason <> 'undecodable' returning letter)
insert into perdure.audit (who, what, letter, replay, why)
select $2, 'letter.resolve', letter, $3, 'the task is completed' from l`

// slice works on the next letters of a job; left says that there may be more.
func (r *Replayer) slice(ctx context.Context, j *job) (left bool, err error) {
	list, err := r.next(ctx, j)
	if err != nil || len(list) == 0 {
		return false, err
	}
	verdicts := make([]refusal, len(list))
	rows := make([]outboxRow, len(list))
	var ids []string
	var at []int
	for i := range list {
		l := &list[i]
		if verdicts[i] = before(l, r.deps.Catalog); verdicts[i] == "" {
			rows[i], verdicts[i] = rebuild(l)
		}
		if verdicts[i] == "" {
			ids, at = append(ids, l.taskID), append(at, i)
		}
	}
	r.step("read")
	if len(ids) > 0 {
		known, err := r.deps.Claims.Get(ctx, ids...)
		if err != nil {
			return false, fmt.Errorf("read %d claims: %w", len(ids), err)
		}
		for k, i := range at {
			verdicts[i] = judge(&list[i], known[k], r.deps.Catalog.Kinds[list[i].kind])
		}
	}
	for i := range list {
		r.step("judged")
		if err := r.finish(ctx, j, &list[i], rows[i], verdicts[i]); err != nil {
			return false, fmt.Errorf("letter %s: %w", list[i].id, err)
		}
	}
	return len(list) == r.cfg.Slice, nil
}

// finish moves or refuses one letter.
func (r *Replayer) finish(ctx context.Context, j *job, l *letter, row outboxRow, why refusal) error {
	switch {
	case why == "" && j.dryRun:
		return r.note(ctx, j, l, "would_replay", "")
	case why != "" && (j.dryRun || !why.completed()):
		return r.note(ctx, j, l, "refused", why)
	case why != "":
		if _, err := r.deps.DB.Exec(ctx, settle, l.taskID, j.who, j.id); err != nil {
			return err
		}
		return r.note(ctx, j, l, "refused", why)
	}
	var seq int64
	err := r.deps.DB.QueryRow(ctx, moveLetter, j.id, l.n, l.id, l.epoch, row.key, row.contentType, row.headers, j.who, j.why).Scan(&seq)
	if err == nil {
		r.letters.WithLabelValues("replayed").Inc()
		return nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return r.outrun(ctx, j, l)
}

// outrun says why a letter that could go did not: someone else changed it, or
// the job, or did this very step before us.
func (r *Replayer) outrun(ctx context.Context, j *job, l *letter) error {
	var jobState State
	err := r.deps.DB.QueryRow(ctx, `select r.state, coalesce((select state from perdure.dead_letters where letter = $2), '')
from perdure.replays r where r.replay = $1`, j.id, l.id).Scan(&jobState, &l.state)
	if err != nil {
		return err
	}
	if jobState != Running {
		return nil // cancelled: the letter stays where it is
	}
	l.found = l.state != ""
	why := before(l, r.deps.Catalog)
	if why == "" {
		return nil // open again: the next slice looks at it
	}
	return r.note(ctx, j, l, "refused", why)
}

func (r *Replayer) note(ctx context.Context, j *job, l *letter, result string, why refusal) error {
	tag, err := r.deps.DB.Exec(ctx, refuseLetter, j.id, l.n, result, string(why))
	if err == nil && tag.RowsAffected() > 0 {
		r.letters.WithLabelValues(result).Inc()
	}
	return err
}

func (r *Replayer) next(ctx context.Context, j *job) ([]letter, error) {
	rows, err := r.deps.DB.Query(ctx, nextLetters, j.id, r.cfg.Slice)
	if err != nil {
		return nil, fmt.Errorf("read letters: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l letter, err error) {
		var state, reason string
		err = row.Scan(&l.n, &l.id, &l.found, &l.taskID, &l.epoch, &l.kind, &l.queue, &state, &reason, &l.run, &l.cut, &l.size,
			&l.key, &l.headers, &l.expired)
		l.state, l.reason, l.named = schemas.LetterState(state), schemas.Reason(reason), j.named
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read letters: %w", err)
	}
	return list, nil
}

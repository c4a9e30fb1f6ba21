package replayer

// One slice of a job: read letters, read their claims, judge each; finish.go
// then moves or refuses them.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

const nextLetters = `
select rl.n, rl.letter, d.letter is not null, coalesce(d.task_id, ''), coalesce(d.epoch, 0), coalesce(d.kind, ''), coalesce(d.queue, ''),
  coalesce(d.state, ''), coalesce(d.reason, ''), coalesce(d.run, 0), coalesce(d.cut, false), coalesce(length(d.payload), 0),
  d.record_key, d.headers, coalesce(d.deadline <= clock_timestamp(), false)
from perdure.replay_letters rl left join perdure.dead_letters d on d.letter = rl.letter
where rl.replay = $1 and rl.n > $2 and rl.result = '' order by rl.n limit $3`

// slice works on the next letters of a job; left says that there may be more.
func (r *Replayer) slice(ctx context.Context, j *job) (left bool, err error) {
	list, err := r.next(ctx, j)
	if err != nil || len(list) == 0 {
		return false, err
	}
	var ids []string
	var at []int
	for i := range list {
		l := &list[i]
		if !l.found {
			if _, err := schemas.ParseID(l.id); err == nil { // a task that a person named
				ids, at = append(ids, l.id), append(at, i)
			}
			l.why = noLetter(claims.Claim{}) // until its claim says more
			continue
		}
		if l.why = before(l, r.deps.Catalog); l.why == "" {
			l.row, l.why = rebuild(l)
		}
		if l.why == "" {
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
			if !list[i].found {
				list[i].why = noLetter(known[k])
				continue
			}
			list[i].why = judge(&list[i], known[k], r.deps.Catalog.Kinds[list[i].kind])
		}
	}
	r.step("judged")
	if err := r.finish(ctx, j, list); err != nil {
		return false, fmt.Errorf("letters %s to %s: %w", list[0].id, list[len(list)-1].id, err)
	}
	r.passed[j.id] = list[len(list)-1].n
	return len(list) == r.cfg.Slice, nil
}

// next reads letters that were not looked at yet. It begins where this process
// was: passing over a million finished rows in every slice would take the time.
func (r *Replayer) next(ctx context.Context, j *job) ([]letter, error) {
	rows, err := r.deps.DB.Query(ctx, nextLetters, j.id, r.passed[j.id], r.cfg.Slice)
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

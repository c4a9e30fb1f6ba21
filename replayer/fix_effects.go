package replayer

// May a payload be repaired without a person? A repaired task has another
// idempotency key, so nothing downstream knows that an earlier run of it did
// something already.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The dead letters of a task up to an epoch: one without a grant for every epoch
// says that no run was ever granted. An epoch without a letter (it is older than
// the index keeps, or a reconcile hook gave another) proves nothing, nor does a record
// that could not be decoded, which only claims to be the task's.
const ranBefore = `
select u.letter, coalesce(max(d.run), 0) = 0 and count(distinct d.epoch) = max(u.epoch) + 1
from unnest($1::text[], $2::text[], $3::int[]) u(letter, task_id, epoch) left join perdure.letters d on d.task_id = u.task_id and d.epoch <= u.epoch and d.reason <> 'undecodable'
group by u.letter`

// neverRan says of which letters' tasks no run was ever granted, so that none of
// them can have had an effect.
func (r *Replayer) neverRan(ctx context.Context, list []*letter) (map[string]bool, error) {
	ids, tasks, epochs := make([]string, len(list)), make([]string, len(list)), make([]int32, len(list))
	for i, l := range list {
		ids[i], tasks[i], epochs[i] = l.id, l.taskID, int32(l.epoch)
	}
	rows, err := r.deps.DB.Query(ctx, ranBefore, ids, tasks, epochs)
	if err != nil {
		return nil, fmt.Errorf("read what ran before: %w", err)
	}
	never := map[string]bool{}
	var id string
	var none bool
	_, err = pgx.ForEachRow(rows, []any{&id, &none}, func() error {
		never[id] = none
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what ran before: %w", err)
	}
	return never, nil
}

func refuseEffects() refusal {
	return refuse("effects", "an earlier run of the task may have had an effect, and a repaired task has another idempotency key, so that it could happen twice: look at the letter, then say in a plan why there was none (--no-effects)")
}

package dlq

// The sweep: a letter and its task's resolution, or two letters of one task, that two
// transactions write at once (they lie in different partitions, or a reindex runs beside
// a live index) do not see each other, and the letter of a task that is over, or died
// again, would stay open.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sweepChunk = 5000             // rows a transaction
	sweepMost  = 50               // chunks, before the rest of pruning has its turn
	sweepBack  = 24 * time.Hour   // how far a process looks back when it starts
	sweepAgain = 10 * time.Minute // how long a transaction may be open, whose rows come late
)

// sweeps are what is looked at again, in the order in which it was written, and the
// statements that settle the letters of those tasks: the second notes what the first did.
var sweeps = [...]struct{ of, some, settle string }{
	{"resolutions", `select task_id, noted_at, task_id from perdure.resolutions where (noted_at, task_id) > ($1, $2) order by noted_at, task_id limit $3`, settleResolved},
	{"letters that died again", `select task_id, indexed_at, letter from perdure.letters
where epoch > 0 and reason <> 'undecodable' and (indexed_at, letter) > ($1, $2) order by indexed_at, letter limit $3`, settleReplayed},
}

// swept is the last row that a sweep looked at.
type swept struct {
	at  time.Time // written into the index, by the database's clock
	key string
}

// sweep settles the letters that what was written since the last sweep should have
// settled. Only the goroutine that prunes sweeps.
func (x *Index) sweep(ctx context.Context) error {
	var now time.Time
	if err := x.deps.DB.QueryRow(ctx, databaseTime).Scan(&now); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	for i := range sweeps {
		if err := x.sweepOne(ctx, i, now); err != nil {
			return fmt.Errorf("sweep %s: %w", sweeps[i].of, err)
		}
	}
	return nil
}

func (x *Index) sweepOne(ctx context.Context, i int, now time.Time) error {
	if x.swept[i].at.IsZero() {
		x.swept[i].at = now.Add(-sweepBack)
	}
	for range sweepMost {
		n, err := x.sweepSome(ctx, i)
		if err != nil {
			return err
		}
		if n < sweepChunk {
			x.swept[i] = swept{at: now.Add(-sweepAgain)}
			return nil
		}
	}
	return nil // goes on there the next time
}

func (x *Index) sweepSome(ctx context.Context, i int) (n int, err error) {
	last := x.swept[i]
	rows, err := x.deps.DB.Query(ctx, sweeps[i].some, last.at, last.key, sweepChunk)
	if err != nil {
		return 0, err
	}
	var tasks []string
	var task string
	if _, err := pgx.ForEachRow(rows, []any{&task, &last.at, &last.key}, func() error {
		tasks = append(tasks, task)
		return nil
	}); err != nil || len(tasks) == 0 {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, x.deps.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sweeps[i].settle, tasks)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, noteOutcomes, tasks)
		return err
	})
	if err != nil {
		return 0, err
	}
	x.swept[i] = last
	return len(tasks), nil
}

package dlq

// The sweep: a letter and its task's resolution that two transactions write at once (they
// lie in different partitions, or a reindex runs beside a live index) do not see each
// other, and the letter of a task that is over would stay open.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sweepChunk = 5000             // resolutions a transaction
	sweepMost  = 50               // chunks, before the rest of pruning has its turn
	sweepBack  = 24 * time.Hour   // how far a process looks back when it starts
	sweepAgain = 10 * time.Minute // how long a transaction may be open, whose rows come late
)

const sweptResolutions = `
select task_id, noted_at from perdure.resolutions where (noted_at, task_id) > ($1, $2) order by noted_at, task_id limit $3`

// swept is the last resolution that the sweep looked at.
type swept struct {
	at   time.Time // written into the index, by the database's clock
	task string
}

// sweep settles the letters that a resolution should have settled, of those written
// since the last sweep. Only the goroutine that prunes sweeps.
func (x *Index) sweep(ctx context.Context) error {
	var now time.Time
	if err := x.deps.DB.QueryRow(ctx, databaseTime).Scan(&now); err != nil {
		return fmt.Errorf("sweep resolutions: %w", err)
	}
	if x.swept.at.IsZero() {
		x.swept.at = now.Add(-sweepBack)
	}
	for range sweepMost {
		n, err := x.sweepSome(ctx)
		if err != nil {
			return fmt.Errorf("sweep resolutions: %w", err)
		}
		if n < sweepChunk {
			x.swept = swept{at: now.Add(-sweepAgain)}
			return nil
		}
	}
	return nil // goes on there the next time
}

func (x *Index) sweepSome(ctx context.Context) (n int, err error) {
	rows, err := x.deps.DB.Query(ctx, sweptResolutions, x.swept.at, x.swept.task, sweepChunk)
	if err != nil {
		return 0, err
	}
	var tasks []string
	var last swept
	if _, err := pgx.ForEachRow(rows, []any{&last.task, &last.at}, func() error {
		tasks = append(tasks, last.task)
		return nil
	}); err != nil || len(tasks) == 0 {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, x.deps.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, settleResolved, tasks)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, noteOutcomes, tasks)
		return err
	})
	if err != nil {
		return 0, err
	}
	x.swept = last
	return len(tasks), nil
}

package dlq

// Counts of failure groups: the database writes down what each change of letters
// adds and takes (migration 00047); here that is added up, so that few rows are read.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	foldEvery = 5 * time.Second
	foldMost  = 20_000 // rows of one transaction
)

// foldGroups adds up what changed, now and then, until ctx ends.
func (x *Index) foldGroups(ctx context.Context) {
	tick := time.NewTicker(foldEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := foldGroups(ctx, x.deps.DB); err != nil && ctx.Err() == nil {
				x.log.Warn("dlq index: cannot add up the counts of failure groups; tries again later", "err", err)
			}
		}
	}
}

func foldGroups(ctx context.Context, db *pgxpool.Pool) error {
	for {
		var n int64
		if err := db.QueryRow(ctx, `select perdure.fold_groups($1)`, foldMost).Scan(&n); err != nil {
			return fmt.Errorf("add up the counts of failure groups: %w", err)
		}
		if n < foldMost {
			return nil
		}
	}
}

package inbox

// Do and DoSQL: a step once, in a transaction of pgx or of database/sql.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// MaxStep is the greatest length of a step's name, in bytes.
const MaxStep = 200

// Task is what the inbox must know of a task; worker.Task is one, and a test
// may bring its own.
type Task interface {
	TaskID() string   // <source>-<generation>-<seq>; required
	RunNumber() int64 // the run that asks; recorded for people, see Do
}

// Do runs fn, unless the step of this task was committed before. The record is
// written to perdure.inbox in tx, before fn: commit tx to keep both.
//
// Where another transaction is just at the same step, Do waits for its end: if
// it commits, fn does not run; if it rolls back, fn runs. (Above READ COMMITTED
// Postgres answers 40001 in the first case; the retry then finds the record.)
//
// If fn fails or panics, tx is rolled back, to its savepoint if it is a nested
// one: a step that was recorded but not done would never be done. fn's error is
// returned as it is.
//
// The recorded run says under which run the effect was committed. It fences
// nothing, nor need it: a lower run and a higher one both find the step taken.
// What is outside this database is fenced by RunNumber, where it is checked.
func Do(ctx context.Context, tx pgx.Tx, task Task, step string, fn func(context.Context) error) error {
	return do(ctx, task, step, fn,
		func(args ...any) (int64, error) {
			tag, err := tx.Exec(ctx, insertStep, args...)
			return tag.RowsAffected(), err
		},
		func() error {
			// Also when ctx is done: that is when steps fail.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := tx.Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
				return err
			}
			return nil
		})
}

// DoSQL is Do for database/sql, with a Postgres driver.
func DoSQL(ctx context.Context, tx *sql.Tx, task Task, step string, fn func(context.Context) error) error {
	return do(ctx, task, step, fn,
		func(args ...any) (int64, error) {
			res, err := tx.ExecContext(ctx, insertStep, args...)
			if err != nil {
				return 0, err
			}
			return res.RowsAffected()
		},
		func() error {
			if err := tx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
				return err
			}
			return nil
		})
}

// The conflict is with the primary key; Postgres itself waits for a transaction
// that holds it and is not finished.
const insertStep = `insert into perdure.inbox (task_id, step, run) values ($1, $2, $3) on conflict do nothing`

func do(ctx context.Context, task Task, step string, fn func(context.Context) error,
	insert func(...any) (int64, error), rollback func() error,
) (err error) {
	id := task.TaskID()
	if id == "" || step == "" || len(step) > MaxStep {
		return fmt.Errorf("inbox: task %q, step %q: want an id, and a step of 1 to %d bytes", id, step, MaxStep)
	}
	rows, err := insert(id, step, task.RunNumber())
	if err != nil {
		return fmt.Errorf("inbox: record step %q of task %s: %w", step, id, err)
	}
	if rows == 0 {
		return nil
	}
	finished := false
	defer func() {
		if finished && err == nil {
			return
		}
		// A panic or runtime.Goexit comes through here too, and goes on.
		if rerr := rollback(); rerr != nil && err != nil {
			err = fmt.Errorf("%w (and inbox: roll back step %q of task %s: %w)", err, step, id, rerr)
		}
	}()
	err = fn(ctx)
	finished = true
	return err
}

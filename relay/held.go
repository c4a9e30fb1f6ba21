package relay

// Held tasks: what a reset found that Kafka may have already. Only a person
// decides about them.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

// Held is one such task.
type Held struct {
	Seq     int64     `json:"seq"` // names it in release and discard
	ID      string    `json:"id"`  // a replay's is another than its seq says
	Kind    string    `json:"kind"`
	Queue   string    `json:"queue"`
	Key     string    `json:"key,omitempty"`
	Created time.Time `json:"created_at"`
	HeldAt  time.Time `json:"held_at"`
}

// ErrNotHeld means that no such task is held: it was released or discarded, or never held.
var ErrNotHeld = errors.New("no such task is held")

// Beginner is what Release and Discard need of a pool or a connection.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// ReadHeld lists held tasks by seq, limit at most; total counts all.
func ReadHeld(ctx context.Context, db Querier, source string, limit int) (list []Held, total int64, err error) {
	rows, err := db.Query(ctx, `
select id, generation, coalesce(task_id, ''), kind, queue, coalesce(key, ''), created_at, held_at, count(*) over ()
from perdure.held order by id limit $1`, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("postgres: list held tasks: %w", err)
	}
	var h Held
	var generation int
	_, err = pgx.ForEachRow(rows, []any{&h.Seq, &generation, &h.ID, &h.Kind, &h.Queue, &h.Key, &h.Created, &h.HeldAt, &total}, func() error {
		if h.ID == "" {
			h.ID = schemas.ID{Source: source, Generation: generation, Seq: h.Seq}.String()
		}
		list = append(list, h)
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("postgres: list held tasks: %w", err)
	}
	return list, total, nil
}

const (
	auditHeld = `insert into perdure.audit (who, what, why, details) values ($1, $2, $3, jsonb_build_object('seq', $4::bigint, 'as', $5::bigint))`
	// The schedule is looked at once a minute at least; see longestWait.
	releaseSame = `
with gone as (delete from perdure.held where id = $1 returning *)
insert into perdure.scheduled (due, ` + fileColumns + `)
select coalesce(due, clock_timestamp()), ` + fileColumns + ` from gone returning id`
	releaseNew = `
with gone as (delete from perdure.held where id = $1 returning *)
insert into perdure.outbox (run_at, epoch, deadline, kind, queue, key, task_id, content_type, headers, payload, checked)
select due, epoch, deadline, kind, queue, key, task_id, content_type, headers, payload, checked from gone returning id`
	// A unique key goes with its task to the new id: $1 the held row, $2 the new one.
	// A replay keeps its task's id, and the row of that id is another.
	followNew = `
update perdure.unique_keys u set seq = o.id, generation = o.generation from perdure.outbox o
where o.id = $2 and o.task_id is null and u.seq = $1 and u.generation = $3 and u.expires = 'infinity'`
)

// Release sends a held task after all, within about a minute, and returns the
// seq that it goes under. With its own id, Kafka's record of it, if there is
// one, is the same task: it runs once; but a *different* task that got the id
// from lost commits would swallow it. With a new id it surely runs, a second
// time if Kafka had it. A replay keeps its task's id either way.
func Release(ctx context.Context, db Beginner, seq int64, newID bool, who string) (as int64, err error) {
	sql, what := releaseSame, "held task released"
	if newID {
		sql, what = releaseNew, "held task released under a new id"
	}
	err = decide(ctx, db, seq, func(tx pgx.Tx) error {
		var generation int
		if err := tx.QueryRow(ctx, `select generation from perdure.held where id = $1`, seq).Scan(&generation); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, sql, seq).Scan(&as); err != nil {
			return err
		}
		if newID {
			if _, err := tx.Exec(ctx, followNew, seq, as, generation); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, auditHeld, who, what, "", seq, as)
		return err
	})
	return as, err
}

// Discard drops a held task that Kafka has, or that nobody wants. A unique key that
// it holds until it is completed stays held, for Kafka's record may run yet; who
// knows better cancels the task.
func Discard(ctx context.Context, db Beginner, seq int64, who, why string) error {
	return decide(ctx, db, seq, func(tx pgx.Tx) error {
		var gone int64
		if err := tx.QueryRow(ctx, `delete from perdure.held where id = $1 returning id`, seq).Scan(&gone); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, auditHeld, who, "held task discarded", why, seq, nil)
		return err
	})
}

func decide(ctx context.Context, db Beginner, seq int64, do func(pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("postgres: held task %d: %w", seq, err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit it does nothing
	if err := do(tx); errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%w: seq %d: see `perdure outbox status`", ErrNotHeld, seq)
	} else if err != nil {
		return fmt.Errorf("postgres: held task %d: %w", seq, err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("postgres: held task %d: %w", seq, err)
	}
	return nil
}

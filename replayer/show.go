package replayer

// Showing replays: how far they are, what was refused and why, what became of
// the rest.

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const jobColumns = `r.replay, r.state, r.dry_run, r.selector, r.who, r.why, r.created_at, r.changed_at,
  c.letters, c.left_, c.replayed, c.refused`

const countLetters = `lateral (
  select count(*) as letters, count(*) filter (where result = '') as left_,
    count(*) filter (where result in ('replayed', 'would_replay')) as replayed, count(*) filter (where result = 'refused') as refused
  from perdure.replay_letters l where l.replay = r.replay) c`

func scanReplay(row pgx.CollectableRow) (r Replay, err error) {
	return r, row.Scan(&r.ID, &r.State, &r.DryRun, &r.Selector, &r.Who, &r.Why, &r.CreatedAt, &r.ChangedAt,
		&r.Letters, &r.Left, &r.Replayed, &r.Refused)
}

// List returns at most limit replays, the latest first.
func (j *Jobs) List(ctx context.Context, limit int) ([]Replay, error) {
	rows, err := j.db.Query(ctx, `select `+jobColumns+` from (
  select * from perdure.replays order by created_at desc, replay limit $1) r, `+countLetters+` order by r.created_at desc, r.replay`, limit)
	if err != nil {
		return nil, fmt.Errorf("list replays: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanReplay)
	if err != nil {
		return nil, fmt.Errorf("list replays: %w", err)
	}
	return list, nil
}

// Get returns a replay with its refusals and what became of its letters.
func (j *Jobs) Get(ctx context.Context, id string) (*Replay, error) {
	rows, err := j.db.Query(ctx, `select `+jobColumns+` from perdure.replays r, `+countLetters+` where r.replay = $1`, id)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", id, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanReplay)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNoReplay
	}
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", id, err)
	}
	rows, err = j.db.Query(ctx, `select detail, count(*), min(letter) from perdure.replay_letters
where replay = $1 and result = 'refused' group by detail order by 2 desc, 1 limit 20`, id)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", id, err)
	}
	if r.Refusals, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Refusal]); err != nil {
		return nil, fmt.Errorf("replay %s: %w", id, err)
	}
	if r.DryRun {
		return &r, nil
	}
	r.Became = &Became{}
	err = j.db.QueryRow(ctx, `select count(*) filter (where d.state = 'resolved' and d.resolved_by <> 'replay'),
  count(*) filter (where d.state = 'resolved' and d.resolved_by = 'replay'), count(*) filter (where d.state = 'replaying')
from perdure.replay_letters l join perdure.dead_letters d on d.letter = l.letter
where l.replay = $1 and l.result = 'replayed'`, id).Scan(&r.Became.Completed, &r.Became.DiedAgain, &r.Became.UnderWay)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", id, err)
	}
	return &r, nil
}

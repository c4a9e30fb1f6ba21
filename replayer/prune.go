package replayer

// Pruning: replays that ended long ago, and the beginning of the audit. A plan that nobody
// started is cancelled first. What is paused, or has tasks under way, is never removed by age.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/audit"
)

// How long things are kept where the Config is silent.
const (
	defaultKeep      = 90 * 24 * time.Hour
	defaultKeepAudit = 400 * 24 * time.Hour
	pruneEvery       = 10 * time.Minute
	pruneChunk       = 5000
)

// Letters first, some at a time, then the replay. A letter that is still in the
// index keeps its replay: `tasks get` and `balance` ask who replayed it.
const (
	oldReplay = `
select replay from perdure.replays r where state in ('done', 'stopped', 'cancelled') and changed_at < now() - $1::interval
  and not exists (select from perdure.replay_letters l join perdure.letter_states d on d.letter = l.letter where l.replay = r.replay and l.result = 'replayed')
order by changed_at limit 1`
	pruneReplayLetters = `
delete from perdure.replay_letters where replay = $1 and n in (select n from perdure.replay_letters where replay = $1 order by n limit $2)`
	pruneReplayFixes = `
delete from perdure.replay_fixes where replay = $1 and n in (select n from perdure.replay_fixes where replay = $1 order by n limit $2)`
)

// actForget is a cancel that no plan hears which somebody has just started.
var actForget = act{actCancel.name, []State{Planned, Approved}, Cancelled}

// forget cancels plans that nobody started: their letters are as they were.
func (r *Replayer) forget(ctx context.Context) error {
	rows, err := r.deps.DB.Query(ctx, `select replay from perdure.replays where state in ('planned', 'approved') and changed_at < now() - $1::interval`, r.cfg.Keep)
	if err != nil {
		return fmt.Errorf("look for plans that nobody started: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for plans that nobody started: %w", err)
	}
	jobs := NewJobs(r.deps.DB, r.deps.Catalog, r.deps.JQ)
	for _, id := range ids {
		why := fmt.Sprintf("nobody started it within %d days", int(r.cfg.Keep.Hours()/24))
		err := jobs.act(ctx, id, "perdure", why, actForget, func(context.Context, pgx.Tx, *row) (State, map[string]any, error) { return Cancelled, nil, nil })
		if err != nil && !errors.Is(err, ErrState) && !errors.Is(err, ErrNoReplay) {
			return fmt.Errorf("cancel replay %s: %w", id, err)
		}
	}
	return nil
}

// prune removes what is old.
func (r *Replayer) prune(ctx context.Context) error {
	if err := r.forget(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		var id string
		if err := r.deps.DB.QueryRow(ctx, `select coalesce((`+oldReplay+`), '')`, r.cfg.Keep).Scan(&id); err != nil {
			return fmt.Errorf("look for old replays: %w", err)
		}
		if id == "" {
			break
		}
		for _, some := range []string{pruneReplayFixes, pruneReplayLetters} {
			for {
				tag, err := r.deps.DB.Exec(ctx, some, id, pruneChunk)
				if err != nil {
					return fmt.Errorf("prune replay %s: %w", id, err)
				}
				if tag.RowsAffected() < pruneChunk {
					break
				}
			}
		}
		if _, err := r.deps.DB.Exec(ctx, `delete from perdure.replays where replay = $1`, id); err != nil {
			return fmt.Errorf("prune replay %s: %w", id, err)
		}
	}
	_, err := audit.New(r.deps.DB).Prune(ctx, r.cfg.KeepAudit)
	return err
}

// pruneNow prunes if it is time. What fails is tried again next time.
func (r *Replayer) pruneNow(ctx context.Context) {
	if time.Since(r.pruned) < pruneEvery {
		return
	}
	r.pruned = time.Now()
	if err := r.prune(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("replayer: cannot prune; tries again later", "err", err)
	}
}

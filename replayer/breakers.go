package replayer

// Breakers: which kinds' calls the workers hold back, as their events tell. What is
// lost of them makes a replay stop later, by what becomes of its tasks; nothing is
// safe because of them.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/schemas"
)

// openBreaker is one that a worker told of.
type openBreaker struct {
	kind, worker, class, message string
	at                           time.Time
}

// A worker has a breaker of its own for each kind, so the last word of each counts.
// A worker that is gone, or has no more tasks of the kind, says nothing: its word
// is forgotten.
const findOpenBreakers = `
select distinct on (kind) kind, worker, error_class, message, at from (
  select distinct on (data ->> 'kind', worker) data ->> 'kind' as kind, worker, type, error_class, message, at from perdure.events
  where (type = 'waiting' and data ->> 'reason' = 'breaker' or type = 'breaker_closed') and at > clock_timestamp() - $1::interval
  order by data ->> 'kind', worker, at desc, "offset" desc) e
where type = 'waiting' and kind is not null order by kind, at desc`

// breakersOpen are the kinds with an open breaker, and who told of it last.
func breakersOpen(ctx context.Context, db *pgxpool.Pool) (map[string]openBreaker, error) {
	rows, err := db.Query(ctx, findOpenBreakers, dlq.BreakerFresh)
	if err != nil {
		return nil, fmt.Errorf("find open breakers: %w", err)
	}
	open := map[string]openBreaker{}
	var b openBreaker
	if _, err := pgx.ForEachRow(rows, []any{&b.kind, &b.worker, &b.class, &b.message, &b.at}, func() error {
		open[b.kind] = b
		return nil
	}); err != nil {
		return nil, fmt.Errorf("find open breakers: %w", err)
	}
	return open, nil
}

// says is the breaker as a stop names it.
func (b openBreaker) says(cat *schemas.Catalog) string {
	of := "kind " + b.kind
	if k := cat.Kinds[b.kind]; k != nil && k.Dependency != "" {
		of += " (" + k.Dependency + ")"
	}
	said := fmt.Sprintf("of %s, told by worker %s at %s: %s", of, b.worker, b.at.UTC().Format(time.TimeOnly+" UTC"), b.class)
	if b.message != "" {
		said += ": " + b.message[:min(len(b.message), 200)]
	}
	return storable(said)
}

// breakersEvery is how old the answer about breakers may be.
const breakersEvery = time.Second

// breakers are the open ones, asked once for all replays.
func (r *Replayer) breakers(ctx context.Context) (map[string]openBreaker, error) {
	if now := time.Now(); now.Sub(r.brokenAt) >= breakersEvery {
		open, err := breakersOpen(ctx, r.deps.DB)
		if err != nil {
			return nil, err
		}
		r.broken, r.brokenAt = open, now
	}
	return r.broken, nil
}

// heldBack says that a breaker is open where letters would go, "" if none is.
func (r *Replayer) heldBack(ctx context.Context, j *job, list []letter) (string, error) {
	if j.spec.Stop.Off || j.spec.Stop.IgnoreBreaker {
		return "", nil
	}
	open, err := r.breakers(ctx)
	if err != nil || len(open) == 0 {
		return "", err
	}
	for i := range list {
		if b, is := open[list[i].kind]; is && list[i].why == "" {
			return "breaker open: " + b.says(r.deps.Catalog), nil
		}
	}
	return "", nil
}

// The letters of a canary that is out are in front of the first that is left.
const canaryKinds = `
select d.kind from perdure.replay_letters l join perdure.letter_states d on d.letter = l.letter
where l.replay = $1 and l.result = 'replayed' and l.outcome = '' and d.kind = any($2::text[])
  and l.n < coalesce((select n from perdure.replay_letters where replay = $1 and n > (select done_to from perdure.replays where replay = $1) and result = '' order by n limit 1), 9223372036854775807)
limit 1`

// canaryHeldBack says that tasks of the canary wait at an open breaker, where they may
// stay for longer than anybody waits for them.
func (r *Replayer) canaryHeldBack(ctx context.Context, j *job) (string, error) {
	if j.state != InCanary || j.spec.Stop.Off || j.spec.Stop.IgnoreBreaker {
		return "", nil
	}
	open, err := r.breakers(ctx)
	if err != nil || len(open) == 0 {
		return "", err
	}
	kinds := make([]string, 0, len(open))
	for kind := range open {
		kinds = append(kinds, kind)
	}
	var kind string
	err = r.deps.DB.QueryRow(ctx, canaryKinds, plannedEachTime, j.id, kinds).Scan(&kind)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("find the canary's kinds: %w", err)
	}
	return "breaker open: " + open[kind].says(r.deps.Catalog), nil
}

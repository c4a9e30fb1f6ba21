package replayer

// Taking a job: a lease that divides the work, and the letters that its rate
// allows now, counted on the database's clock.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// job is a replay as one turn sees it.
type job struct {
	id       string
	state    State
	dryRun   bool
	who, why string
	hash     string // of its plan
	named    bool   // letters were chosen by id
	spec     Spec

	letters, looked, replayed, refused, completed, died, same, other int64
	doneTo                                                           int64 // each letter up to this n was replayed or refused

	stuck string // why its fixer or an open breaker ends it; "" = they do not

	tokens float64       // letters that the rate allows now
	ramped time.Duration // since the ramp began
	canary time.Duration // since the last canary letter went; 0 = it has not
}

// left is how many letters were not looked at by the run.
func (j *job) left() int64 { return j.letters - j.replayed - j.refused }

// underWay is how many were replayed and have no outcome yet.
func (j *job) underWay() int64 { return j.replayed - j.completed - j.died - j.other }

// rate is how many letters a second may go now; 0 = no limit.
func (j *job) rate() float64 { return rateAt(j.state, &j.spec, j.ramped) }

// rampFrom is the share of the rate that a ramp begins with.
const rampFrom = 0.1

func rateAt(s State, spec *Spec, ramped time.Duration) float64 {
	ramp := time.Duration(spec.Ramp)
	if s != Ramping || ramp <= 0 || ramped >= ramp {
		return spec.Rate
	}
	return spec.Rate * max(rampFrom, float64(ramped)/float64(ramp))
}

// The job that waited longest goes first, so that a large one starves nobody.
const takeJob = `
update perdure.replays set owner = $1, lease = clock_timestamp() + $2::interval, taken_at = clock_timestamp()
where replay = (
  select replay from perdure.replays
  where state in ('planning', 'canary', 'ramping', 'running') and due_at <= clock_timestamp()
    and (lease is null or lease < clock_timestamp() or owner = $1)
  order by due_at, replay limit 1 for update skip locked)
returning replay, state, dry_run, who, why, hash, selector ? 'ids', spec, letters, looked, replayed, refused, completed, died_again, died_same, other,
  tokens, paced_at, clock_timestamp(), coalesce(ramp_at, clock_timestamp()), canary_at, done_to`

// Only from the count that was read: a person may have changed the rate since.
const countTokens = `
update perdure.replays set tokens = $2, paced_at = $3 where replay = $1 and paced_at is not distinct from $4 returning tokens`

// saveUp counts what a rate allows after a while. About half a second can be saved up, so
// that no hiccup becomes a burst.
func saveUp(tokens, rate float64, while time.Duration) float64 {
	return min(tokens+rate*while.Seconds(), rate/2+1)
}

// take takes the next job that is due; nil if there is none.
func (r *Replayer) take(ctx context.Context) (*job, error) {
	var j job
	var spec []byte
	var now, ramp time.Time
	var paced, canary *time.Time
	err := r.deps.DB.QueryRow(ctx, takeJob, r.cfg.Instance, r.cfg.Lease).Scan(&j.id, &j.state, &j.dryRun, &j.who, &j.why, &j.hash, &j.named, &spec,
		&j.letters, &j.looked, &j.replayed, &j.refused, &j.completed, &j.died, &j.same, &j.other, &j.tokens, &paced, &now, &ramp, &canary, &j.doneTo)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take a replay: %w", err)
	}
	if err := json.Unmarshal(spec, &j.spec); err != nil {
		// It would be taken again and again, before all others.
		return nil, r.become(ctx, &j, Stopped, storable("its plan cannot be read: "+err.Error()))
	}
	j.ramped = now.Sub(ramp)
	if canary != nil {
		j.canary = now.Sub(*canary)
	}
	if rate := j.rate(); rate > 0 {
		// What is counted stands in the row before it is spent, and is spent in the
		// statement that moves letters: whoever is killed, the rate holds.
		if paced != nil { // else the count begins now
			j.tokens = saveUp(j.tokens, rate, now.Sub(*paced))
		}
		err := r.deps.DB.QueryRow(ctx, countTokens, j.id, j.tokens, now, paced).Scan(&j.tokens)
		if errors.Is(err, pgx.ErrNoRows) {
			j.tokens = 0
		} else if err != nil {
			return nil, fmt.Errorf("replay %s: count its rate: %w", j.id, err)
		}
	}
	return &j, nil
}

// release gives the lease back, also when ctx has ended; a process that is
// killed leaves it to run out. The job is due again after pause.
func (r *Replayer) release(ctx context.Context, j *job, pause time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := r.deps.DB.Exec(ctx, `update perdure.replays set lease = null, owner = '', done_to = greatest(done_to, $4), due_at = greatest(due_at, clock_timestamp() + $3::interval)
where replay = $1 and owner = $2`, j.id, r.cfg.Instance, pause, j.doneTo); err != nil {
		r.log.Warn("replayer: cannot give a lease back; it runs out by itself", "replay", j.id, "err", err)
	}
}

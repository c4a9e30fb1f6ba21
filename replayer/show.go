package replayer

// Showing replays: how far they are, what was refused and why, what became of
// the rest, and how long it will take.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
)

// Replay is a job as it stands.
type Replay struct {
	ID         string          `json:"id"`
	State      State           `json:"state" enum:"planning,planned,approved,canary,ramping,running,paused,done,stopped,cancelled"`
	Resumes    State           `json:"resumes,omitempty" doc:"while paused: the state that it comes back to"`
	Note       string          `json:"note,omitempty" doc:"why it was stopped, paused or cancelled"`
	DryRun     bool            `json:"dry_run,omitempty"`
	Selector   json.RawMessage `json:"selector"`
	Spec       Spec            `json:"spec"`
	Hash       string          `json:"hash" doc:"SHA-256 over the plan's letters, in their order, and its spec"`
	Who        string          `json:"who"`
	Why        string          `json:"why,omitempty"`
	Approval   string          `json:"approval,omitempty" doc:"why another person must approve it; absent = nobody need"`
	ApprovedBy string          `json:"approved_by,omitempty"`
	CreatedAt  time.Time       `json:"created_at"`
	ChangedAt  time.Time       `json:"changed_at"`
	TakenAt    *time.Time      `json:"taken_at,omitempty" doc:"when a replayer last worked on it; absent = none ever did"`
	Letters    int64           `json:"letters" doc:"frozen when the replay was planned"`
	Looked     int64           `json:"looked,omitempty" doc:"of a plan: letters that were looked at before it starts"`
	Left       int64           `json:"left" doc:"neither replayed nor refused yet"`
	Replayed   int64           `json:"replayed" doc:"in a dry run: would be replayed"`
	Refused    int64           `json:"refused"`
	Refusals   []Refusal       `json:"refusals,omitempty" doc:"why, most frequent first"`
	Became     *Became         `json:"became,omitempty" doc:"of the replayed ones, as far as is known now"`
	Fixes      []Fix           `json:"fixes,omitempty" doc:"of the first letters, before and after the fixer; needs the verb read-payload"`
	First      []ReplayLetter  `json:"first_letters,omitempty" doc:"the first five in its order, until something of it moves"`
	Order      string          `json:"order" doc:"in which its letters go"`
	Hidden     bool            `json:"hidden,omitempty" doc:"fixes need the verb read-payload"`
	Rate       float64         `json:"rate_now,omitempty" doc:"letters a second that may go now; absent = as fast as it can"`
	Expected   Duration        `json:"expected,omitempty" doc:"how long the letters that are left take to be sent, without the canary's wait"`
}

// Refusal is one reason for refusing letters.
type Refusal struct {
	Why     string `json:"why"`
	Letters int64  `json:"letters"`
	Sample  string `json:"sample" doc:"one of the letters"`
}

// Became counts what became of replayed letters.
type Became struct {
	Completed int64   `json:"completed"`
	DiedAgain int64   `json:"died_again"`
	DiedSame  int64   `json:"died_same" doc:"of died_again: of the cause that they had"`
	Other     int64   `json:"other,omitempty" doc:"cancelled"`
	UnderWay  int64   `json:"under_way"`
	Causes    []Cause `json:"causes,omitempty" doc:"of what died again, most frequent first"`
}

// Cause is a fingerprint that replayed tasks died of.
type Cause struct {
	Group   string `json:"group"`
	Letters int64  `json:"letters"`
}

const jobColumns = `replay, state, resume, note, dry_run, selector, spec, hash, who, why, approval, approved_by, created_at, changed_at, taken_at,
  letters, looked, replayed, refused, completed, died_again, died_same, other, coalesce(ramp_at, clock_timestamp()), clock_timestamp()`

func scanReplay(r pgx.CollectableRow) (Replay, error) {
	x := Replay{Became: &Became{}, Order: Order}
	b := x.Became
	var spec []byte
	var ramp, now time.Time
	if err := r.Scan(&x.ID, &x.State, &x.Resumes, &x.Note, &x.DryRun, &x.Selector, &spec, &x.Hash, &x.Who, &x.Why, &x.Approval, &x.ApprovedBy,
		&x.CreatedAt, &x.ChangedAt, &x.TakenAt, &x.Letters, &x.Looked, &x.Replayed, &x.Refused,
		&b.Completed, &b.DiedAgain, &b.DiedSame, &b.Other, &ramp, &now); err != nil {
		return x, err
	}
	if err := json.Unmarshal(spec, &x.Spec); err != nil {
		x.Spec = Spec{} // its note says so once a replayer has taken it
	}
	x.Left = x.Letters - x.Replayed - x.Refused
	b.UnderWay = x.Replayed - b.Completed - b.DiedAgain - b.Other
	if x.DryRun {
		x.Became = nil
	}
	if x.State.Moving() {
		x.Rate = rateAt(x.State, &x.Spec, now.Sub(ramp))
	}
	if !x.State.Over() && !x.DryRun {
		x.Expected = expected(&x, now.Sub(ramp))
	}
	return x, nil
}

// unlimited is about what a replayer moves a second where no rate holds it and none of this
// installation's replays says more (docs/performance.md).
const unlimited = 10_000

// What the latest large replays without a rate reached, from their first letter behind the
// canary to their last. The fastest: others waited for people, or for other work.
const reached = `
select coalesce(max((last.n - first.n) / extract(epoch from last.done_at - first.done_at)), 0)::float8
from (
  select replay, spec from perdure.replays
  where state = 'done' and not dry_run and replayed >= $1 and refused * 10 < replayed and coalesce((spec ->> 'rate')::float8, 0) = 0
  order by changed_at desc limit 5) r
cross join lateral (
  select n, done_at from perdure.replay_letters where replay = r.replay and n > coalesce((r.spec -> 'canary' ->> 'letters')::bigint, 0) and result = 'replayed' order by n limit 1) first
cross join lateral (select n, done_at from perdure.replay_letters where replay = r.replay and result = 'replayed' order by n desc limit 1) last
where last.done_at > first.done_at`

// reachedBy is how many letters a replay must have moved for its speed to say something.
const reachedBy = 10_000

// foretell says how long the replays of a list that have no rate will take.
func (j *Jobs) foretell(ctx context.Context, list []Replay) error {
	speed := 0.0
	for i := range list {
		x := &list[i]
		if x.Expected == 0 || x.Spec.Rate > 0 {
			continue
		}
		if speed == 0 {
			if err := j.db.QueryRow(ctx, reached, reachedBy).Scan(&speed); err != nil {
				return fmt.Errorf("how fast replays went: %w", err)
			}
			if speed == 0 {
				speed = unlimited
			}
		}
		x.Expected = lasts(float64(x.Left) / speed)
	}
	return nil
}

// lasts is so many seconds, to be shown.
func lasts(s float64) Duration {
	return Duration(time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond))
}

// expected is how long the letters that are left take to be sent: the time in which the
// rate, as rateAt lets it grow, adds up to them.
func expected(r *Replay, ramped time.Duration) Duration {
	rate, ramp := r.Spec.Rate, time.Duration(r.Spec.Ramp).Seconds()
	if rate <= 0 {
		rate, ramp = unlimited, 0
	}
	left, from, s := float64(r.Left)/rate, 0.0, 0.0 // in seconds at the whole rate; into the ramp
	if r.State == Ramping {
		from = ramped.Seconds()
	}
	if r.State != Running && r.Resumes != Running && from < ramp {
		if flat := rampFrom * ramp; from < flat {
			s = min(flat-from, left/rampFrom)
			left -= s * rampFrom
		}
		// From t on, (u² - t²) / 2·ramp goes until u.
		if t := from + s; left > 0 {
			u := min(math.Sqrt(t*t+2*ramp*left), ramp)
			left -= (u*u - t*t) / (2 * ramp)
			s += u - t
		}
	}
	return lasts(s + max(left, 0))
}

// List returns at most limit replays, the latest first.
func (j *Jobs) List(ctx context.Context, limit int) ([]Replay, error) {
	rows, err := j.db.Query(ctx, `select `+jobColumns+` from perdure.replays order by created_at desc, replay limit $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("list replays: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanReplay)
	if err != nil {
		return nil, fmt.Errorf("list replays: %w", err)
	}
	return list, j.foretell(ctx, list)
}

// mostGrouped is how many of a replay's refused letters, and of those that died again,
// are grouped: the first ones.
const mostGrouped = 100_000

// Get returns a replay with its refusals and what became of its letters.
func (j *Jobs) Get(ctx context.Context, id string) (*Replay, error) {
	r, err := j.glance(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Refused > 0 {
		rows, err := j.db.Query(ctx, `select detail, count(*), min(letter) from (
  select detail, letter from perdure.replay_letters where replay = $1 and detail <> '' and result = 'refused' order by n limit $2) d
group by detail order by 2 desc, 1 limit 20`, id, mostGrouped)
		if err != nil {
			return nil, fmt.Errorf("replay %s: %w", id, err)
		}
		if r.Refusals, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Refusal]); err != nil {
			return nil, fmt.Errorf("replay %s: %w", id, err)
		}
	}
	if r.Became != nil && r.Became.DiedAgain > 0 {
		rows, err := j.db.Query(ctx, `select fingerprint, count(*) from (
  select fingerprint from perdure.replay_letters where replay = $1 and fingerprint <> '' and outcome = 'died_again' order by n limit $2) d
group by fingerprint order by 2 desc, 1 limit 20`, id, mostGrouped)
		if err != nil {
			return nil, fmt.Errorf("replay %s: %w", id, err)
		}
		if r.Became.Causes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Cause]); err != nil {
			return nil, fmt.Errorf("replay %s: %w", id, err)
		}
	}
	return r, nil
}

// glance reads the replay's own row alone, which costs the same for a plan of
// any size.
func (j *Jobs) glance(ctx context.Context, id string) (*Replay, error) {
	rows, err := j.db.Query(ctx, `select `+jobColumns+` from perdure.replays where replay = $1`, id)
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
	one := []Replay{r}
	return &one[0], j.foretell(ctx, one)
}

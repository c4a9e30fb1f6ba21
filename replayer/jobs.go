package replayer

// Jobs: planning, starting, cancelling and showing replays.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// State of a replay.
type State string

// The states of a replay. The last two are terminal.
const (
	Planned   State = "planned"
	Running   State = "running"
	Done      State = "done"
	Cancelled State = "cancelled"
)

// Errors of Jobs.
var (
	ErrNoReplay    = errors.New("no such replay")
	ErrNoSelection = errors.New("the selector chooses nothing in particular")
	ErrState       = errors.New("the replay's state does not allow it")
)

// Selector says which open letters a replay takes. Fields are joined by and;
// a selector without any must say All.
type Selector struct {
	IDs    []string  `json:"ids,omitempty" maxItems:"10000" doc:"letters (<task id>@<epoch>) or task ids"`
	Group  string    `json:"group,omitempty" doc:"fingerprint of a failure group"`
	Kind   string    `json:"kind,omitempty"`
	Queue  string    `json:"queue,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Key    string    `json:"key,omitempty"`
	Since  time.Time `json:"since,omitzero" doc:"died at or after"`
	Until  time.Time `json:"until,omitzero" doc:"died before"`
	All    bool      `json:"all,omitempty" doc:"every open letter"`
}

func (s *Selector) empty() bool {
	return len(s.IDs) == 0 && s.Group == "" && s.Kind == "" && s.Queue == "" && s.Reason == "" && s.Key == "" &&
		s.Since.IsZero() && s.Until.IsZero() && !s.All
}

// Plan is what to plan.
type Plan struct {
	Selector Selector
	DryRun   bool   // look at every letter and say what would happen; change nothing
	Start    bool   // begin at once; a dry run always does
	Who      string // for the audit
	Why      string
}

// Replay is a job as it stands.
type Replay struct {
	ID        string          `json:"id"`
	State     State           `json:"state" enum:"planned,running,done,cancelled"`
	DryRun    bool            `json:"dry_run,omitempty"`
	Selector  json.RawMessage `json:"selector"`
	Who       string          `json:"who"`
	Why       string          `json:"why,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	ChangedAt time.Time       `json:"changed_at"`
	Letters   int64           `json:"letters" doc:"frozen when the replay was planned"`
	Left      int64           `json:"left" doc:"not looked at yet"`
	Replayed  int64           `json:"replayed" doc:"in a dry run: would be replayed"`
	Refused   int64           `json:"refused"`
	Refusals  []Refusal       `json:"refusals,omitempty" doc:"why, most frequent first"`
	Became    *Became         `json:"became,omitempty" doc:"of the replayed ones, as far as is known now"`
}

// Refusal is one reason for refusing letters.
type Refusal struct {
	Why     string `json:"why"`
	Letters int64  `json:"letters"`
	Sample  string `json:"sample" doc:"one of the letters"`
}

// Became counts what became of replayed letters.
type Became struct {
	Completed int64 `json:"completed"`
	DiedAgain int64 `json:"died_again"`
	UnderWay  int64 `json:"under_way"`
}

// Jobs plans and shows replays; safe for concurrent use.
type Jobs struct{ db *pgxpool.Pool }

// NewJobs returns Jobs over db, which stays the caller's.
func NewJobs(db *pgxpool.Pool) *Jobs { return &Jobs{db: db} }

// Letters named by id are taken in whatever state they are, so that the job can
// say why it refuses one; an id that nothing has stays as it was written.
const freezeIDs = `
insert into perdure.replay_letters (replay, letter, n)
select $1, letter, row_number() over (order by died_at nulls last, letter) from (
  select distinct coalesce(d.letter, i) as letter, d.died_at
  from unnest($2::text[]) i left join lateral (
    select letter, died_at, kind, queue, fingerprint, reason, key from perdure.dead_letters d where d.letter = i or d.task_id = i
    order by d.letter = i desc, d.state = 'open' desc, d.epoch desc limit 1) d on true
  where ($3 = '' or d.fingerprint = $3) and ($4 = '' or d.kind = $4) and ($5 = '' or d.queue = $5)
    and ($6 = '' or d.reason = $6) and ($7 = '' or d.key = $7)
    and ($8::timestamptz is null or d.died_at >= $8) and ($9::timestamptz is null or d.died_at < $9)) f`

const freeze = `
insert into perdure.replay_letters (replay, letter, n)
select $1, letter, row_number() over (order by died_at, letter) from perdure.dead_letters d
where state = 'open' and ($2 = '' or fingerprint = $2) and ($3 = '' or kind = $3) and ($4 = '' or queue = $4)
  and ($5 = '' or reason = $5) and ($6 = '' or key = $6)
  and ($7::timestamptz is null or died_at >= $7) and ($8::timestamptz is null or died_at < $8)`

// Plan freezes the letters that the selector chooses now, oldest death first,
// and returns the job's id. ErrNoSelection: nothing was said.
func (j *Jobs) Plan(ctx context.Context, p Plan) (string, error) {
	s := &p.Selector
	if s.empty() {
		return "", ErrNoSelection
	}
	id, state := "r-"+strings.ToLower(rand.Text()[:12]), Planned
	if p.Start || p.DryRun {
		state = Running
	}
	selector, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("plan a replay: %w", err)
	}
	err = pgx.BeginFunc(ctx, j.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into perdure.replays (replay, state, selector, dry_run, who, why) values ($1, $2, $3, $4, $5, $6)`,
			id, state, selector, p.DryRun, p.Who, p.Why); err != nil {
			return err
		}
		since, until := timeOrNil(s.Since), timeOrNil(s.Until)
		if len(s.IDs) > 0 {
			if _, err := tx.Exec(ctx, freezeIDs, id, s.IDs, s.Group, s.Kind, s.Queue, s.Reason, s.Key, since, until); err != nil {
				return err
			}
		} else if _, err := tx.Exec(ctx, freeze, id, s.Group, s.Kind, s.Queue, s.Reason, s.Key, since, until); err != nil {
			return err
		}
		return note(ctx, tx, p.Who, "replay.plan", id, p.Why)
	})
	if err != nil {
		return "", fmt.Errorf("plan a replay: %w", err)
	}
	return id, nil
}

// Start lets a planned replay run. Starting a running one again changes nothing.
// ErrState: it is over.
func (j *Jobs) Start(ctx context.Context, id, who string) error {
	return j.move(ctx, id, who, Running, "replay.start", []State{Planned, Running})
}

// Cancel ends a replay; letters that it has moved stay moved. Cancelling a
// cancelled one again changes nothing. ErrState: it is done.
func (j *Jobs) Cancel(ctx context.Context, id, who string) error {
	return j.move(ctx, id, who, Cancelled, "replay.cancel", []State{Planned, Running, Cancelled})
}

func (j *Jobs) move(ctx context.Context, id, who string, to State, what string, from []State) error {
	err := pgx.BeginFunc(ctx, j.db, func(tx pgx.Tx) error {
		var state State
		err := tx.QueryRow(ctx, `select state from perdure.replays where replay = $1 for update`, id).Scan(&state)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNoReplay
		}
		if err != nil || state == to {
			return err
		}
		for _, s := range from {
			if s != state {
				continue
			}
			if _, err := tx.Exec(ctx, `update perdure.replays set state = $2, changed_at = clock_timestamp() where replay = $1`, id, to); err != nil {
				return err
			}
			return note(ctx, tx, who, what, id, "")
		}
		return fmt.Errorf("%w: it is %s", ErrState, state)
	})
	if err != nil {
		return fmt.Errorf("replay %s: %w", id, err)
	}
	return nil
}

// note writes an audit row.
func note(ctx context.Context, tx pgx.Tx, who, what, replay, why string) error {
	_, err := tx.Exec(ctx, `insert into perdure.audit (who, what, replay, why) values ($1, $2, $3, $4)`, who, what, replay, why)
	return err
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

package replayer

// Jobs: what people ask of replays. Every act holds the replay's row, so that
// nothing it forbids happens once it has answered.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

// Errors of Jobs.
var (
	ErrNoReplay = errors.New("no such replay")
	ErrState    = errors.New("the replay's state does not allow it")
	ErrApproval = errors.New("another person must approve it")
	ErrHash     = errors.New("it is not the plan of this hash")
)

// ChangedError refuses to start a plan whose letters are not what they were.
type ChangedError struct {
	Letters int64    // of the plan, that would have moved
	Changed int64    // of those, not open any more
	How     []string // "12 resolved by completed (such as main-1-42@0)"
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%d of its %d letters changed since it was planned: %s", e.Changed, e.Letters, strings.Join(e.How, ", "))
}

// Jobs plans and shows replays; safe for concurrent use.
type Jobs struct {
	db          *pgxpool.Pool
	approveOver int64 // plans with more letters need an approval; 0 = none do for their size
	fixers      map[string]*schemas.Fixer
	sensitive   []string // kinds whose plans need an approval
	jq          []string // command of a process that calls jqchild.Serve
}

// NewJobs returns Jobs over db, which stays the caller's. cat says what needs an
// approval; nil: nothing does. jq is the command of a process that calls
// jqchild.Serve; empty: no plan has a condition.
func NewJobs(db *pgxpool.Pool, cat *schemas.Catalog, jq []string) *Jobs {
	j := &Jobs{db: db, jq: jq}
	if cat != nil {
		j.fixers = cat.Fixers
		j.approveOver = int64(cat.Replays.ApproveOver)
		for name, k := range cat.Kinds {
			if k.Sensitive {
				j.sensitive = append(j.sensitive, name)
			}
		}
		slices.Sort(j.sensitive)
	}
	return j
}

// row is what an act decides by.
type row struct {
	state, resume              State
	hash                       string
	who, approval, approvedBy  string
	letters, replayed, refused int64
	looked                     int64
	spec                       Spec
	dryRun                     bool
}

// act does a to a replay; change may look at its row, and sets what it becomes.
func (j *Jobs) act(ctx context.Context, id, who, why string, a act, change func(context.Context, pgx.Tx, *row) (State, map[string]any, error)) error {
	err := pgx.BeginFunc(ctx, j.db, func(tx pgx.Tx) error {
		var r row
		var spec []byte
		err := tx.QueryRow(ctx, `select state, resume, who, approval, approved_by, letters, replayed, refused, looked, spec, dry_run, hash
from perdure.replays where replay = $1 for update`, id).
			Scan(&r.state, &r.resume, &r.who, &r.approval, &r.approvedBy, &r.letters, &r.replayed, &r.refused, &r.looked, &spec, &r.dryRun, &r.hash)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNoReplay
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(spec, &r.spec); err != nil {
			return fmt.Errorf("its plan cannot be read: %w", err)
		}
		if !a.allows(r.state) {
			return fmt.Errorf("%w: it is %s", ErrState, r.state)
		}
		to, details, err := change(ctx, tx, &r)
		if err != nil || to == "" {
			return err
		}
		if to != r.state {
			resume := State("")
			if to == Paused {
				resume = r.state
			}
			if _, err := tx.Exec(ctx, moveState, id, to, resume, why); err != nil {
				return err
			}
		}
		if details == nil {
			details = map[string]any{}
		}
		details["hash"] = r.hash
		return note(ctx, tx, who, a.name, id, why, details)
	})
	if err != nil {
		return fmt.Errorf("replay %s: %w", id, err)
	}
	return nil
}

// A pause makes no rate: what was saved up is gone, and a ramp begins again.
const moveState = `
update perdure.replays set state = $2, resume = $3, note = $4, tokens = least(tokens, 0), paced_at = null, due_at = clock_timestamp(),
  ramp_at = case when $2 = 'ramping' then clock_timestamp() else ramp_at end,
  canary_at = case when $2 = 'canary' and canary_at is not null then clock_timestamp() else canary_at end,
  changed_at = clock_timestamp() where replay = $1`

// Start lets a planned replay run. Starting a running one again changes nothing.
// *ChangedError: its letters are not what they were. ErrApproval: nobody else
// has approved it. ErrHash: what stands in the database is not what was planned.
// ErrState: it is not planned yet, or over.
func (j *Jobs) Start(ctx context.Context, id, who, why string) error {
	return j.StartHash(ctx, id, who, why, "")
}

// StartHash is Start of the plan that has this hash; "" is any.
func (j *Jobs) StartHash(ctx context.Context, id, who, why, hash string) error {
	return j.act(ctx, id, who, why, actStart, func(ctx context.Context, tx pgx.Tx, r *row) (State, map[string]any, error) {
		if hash != "" && hash != r.hash {
			return "", nil, fmt.Errorf("%w: its hash is %s", ErrHash, r.hash)
		}
		if r.state.Moving() {
			return "", nil, nil
		}
		if is, err := hashPlan(ctx, tx, id, &r.spec); err != nil {
			return "", nil, err
		} else if is != r.hash {
			return "", nil, fmt.Errorf("%w: its letters or its spec were changed since it was planned, they hash to %s", ErrHash, is)
		}
		if r.approval != "" && r.approvedBy == "" {
			return "", nil, fmt.Errorf("%w: %s", ErrApproval, r.approval)
		}
		if err := changed(ctx, tx, id, r.letters-r.refused, len(r.spec.Selector.IDs) > 0); err != nil {
			return "", nil, err
		}
		return firstState(&r.spec, r.letters-r.refused), nil, nil
	})
}

const changedLetters = `
select case when d.letter is null then 'gone' when d.state = 'resolved' then 'resolved by ' || d.resolved_by else d.state end, count(*), min(l.letter)
from perdure.replay_letters l left join lateral (select letter, state, resolved_by from perdure.letter_states where letter = l.letter offset 0) d on true
where l.replay = $1 and l.result = '' and d.state is distinct from 'open' and not (d.state = 'held' and $2) group by 1 order by 2 desc, 1`

// changed compares a plan's letters with what they are now.
func changed(ctx context.Context, tx pgx.Tx, id string, letters int64, named bool) error {
	rows, err := tx.Query(ctx, changedLetters, plannedEachTime, id, named)
	if err != nil {
		return err
	}
	e := &ChangedError{Letters: letters}
	var what, sample string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&what, &n, &sample}, func() error {
		e.Changed += n
		e.How = append(e.How, fmt.Sprintf("%d %s (such as %s)", n, what, sample))
		return nil
	}); err != nil {
		return err
	}
	if e.Changed > 0 {
		return e
	}
	return nil
}

// Approve lets a replay start that needs it. The planner cannot approve their
// own plan.
func (j *Jobs) Approve(ctx context.Context, id, who, why string) error {
	return j.act(ctx, id, who, why, actApprove, func(ctx context.Context, tx pgx.Tx, r *row) (State, map[string]any, error) {
		switch {
		case r.approval == "":
			return "", nil, fmt.Errorf("%w: it needs no approval", ErrState)
		case who == r.who:
			return "", nil, fmt.Errorf("%w: %s planned it", ErrApproval, who)
		case r.approvedBy != "":
			return "", nil, nil
		}
		_, err := tx.Exec(ctx, `update perdure.replays set approved_by = $2 where replay = $1`, id, who)
		return Approved, map[string]any{"because": r.approval}, err
	})
}

// Pause holds a replay: once it has answered, nothing moves until Resume.
// Pausing a paused one again changes nothing.
func (j *Jobs) Pause(ctx context.Context, id, who, why string) error {
	return j.act(ctx, id, who, why, actPause, func(_ context.Context, _ pgx.Tx, r *row) (State, map[string]any, error) {
		if r.state == Paused {
			return "", nil, nil
		}
		return Paused, nil, nil
	})
}

// Resume lets a paused replay go on where it was; a ramp begins again. Resuming
// one that moves changes nothing.
func (j *Jobs) Resume(ctx context.Context, id, who, why string) error {
	return j.act(ctx, id, who, why, actResume, func(_ context.Context, _ pgx.Tx, r *row) (State, map[string]any, error) {
		if r.state != Paused {
			return "", nil, nil
		}
		return r.resume, nil, nil
	})
}

// Cancel ends a replay; letters that it has moved stay moved. Cancelling a
// cancelled one again changes nothing. ErrState: it is over.
func (j *Jobs) Cancel(ctx context.Context, id, who, why string) error {
	return j.act(ctx, id, who, why, actCancel, func(_ context.Context, _ pgx.Tx, r *row) (State, map[string]any, error) {
		if r.state == Cancelled {
			return "", nil, nil
		}
		return Cancelled, nil, nil
	})
}

// SetRate changes how many letters a second move, from now on; 0 = as fast as
// it can. Before the start it makes another plan: with another hash, and not approved.
func (j *Jobs) SetRate(ctx context.Context, id, who, why string, rate float64) error {
	return j.act(ctx, id, who, why, actRate, func(ctx context.Context, tx pgx.Tx, r *row) (State, map[string]any, error) {
		to := r.state
		if rate == 0 && to == Ramping {
			to = Running // there is nothing to grow to
		}
		details := map[string]any{"rate": rate, "before": r.spec.Rate}
		// What a replay that moves became is in the audit; its hash pins what was planned.
		if s := r.state; s == Planning || s == Planned || s == Approved {
			if rate == r.spec.Rate {
				return "", nil, nil
			}
			r.spec.Rate = rate
			var err error
			if r.hash, err = hashPlan(ctx, tx, id, &r.spec); err != nil {
				return "", nil, err
			}
			r.approvedBy = ""
			if to == Approved {
				to = Planned
			}
		}
		_, err := tx.Exec(ctx, `update perdure.replays set spec = jsonb_set(spec, '{rate}', to_jsonb($2::float8)), hash = $3, approved_by = $4,
  tokens = least(tokens, 0), paced_at = null, due_at = clock_timestamp(), changed_at = clock_timestamp() where replay = $1`, id, rate, r.hash, r.approvedBy)
		return to, details, err
	})
}

// note writes an audit row.
func note(ctx context.Context, tx pgx.Tx, who, what, replay, why string, details map[string]any) error {
	_, err := tx.Exec(ctx, `insert into perdure.audit (who, what, replay, why, details, origin) values ($1, $2, $3, $4, $5, perdure.audit_origin($6))`,
		who, what, replay, why, details, api.Caller(ctx))
	return err
}

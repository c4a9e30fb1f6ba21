package replayer

// The runner of replays: a lease a job, a slice of its letters at a time.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

// Claims is what a Replayer asks of Redis.
type Claims interface {
	// Get reads claims in the order of ids. An error means that nothing is known.
	Get(ctx context.Context, ids ...string) ([]claims.Claim, error)
}

// Config of a Replayer. Zero values mean the defaults, Instance excepted.
type Config struct {
	Instance string        // names this process in the lease; required
	Lease    time.Duration // by the database's clock; default 30s
	Poll     time.Duration // how often it looks for a job; default 300ms
	Slice    int           // letters of one job before the next has its turn, a quarter of them where it has a fixer; default 4000

	Keep      time.Duration // of replays that are over and whose letters are gone; default 90 days
	KeepAudit time.Duration // of the audit; default 400 days
}

// Deps are what a Replayer uses and does not own.
type Deps struct {
	DB       *pgxpool.Pool
	Claims   Claims
	Catalog  *schemas.Catalog
	Getenv   func(string) string   // reads secrets of repair agents; nil = os.Getenv
	JQ       []string              // command of a process that calls jqchild.Serve; empty = no jq fixer is run
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics
}

// plannedEachTime goes with statements that join the letters of a group or of a plan
// (decision 0303). A plan that Postgres kept from when there were few reads all of them
// for each, and of a replay's plan that was just frozen it has no figures.
const plannedEachTime = pgx.QueryExecModeCacheDescribe

// Replayer works on started replays. Any number of processes may run one.
type Replayer struct {
	cfg       Config
	deps      Deps
	log       *slog.Logger
	letters   *prometheus.CounterVec
	ended     *prometheus.CounterVec
	passed    map[string]pass        // by job: how far this process has come
	lookBack  int64                  // see farBehind
	ahead     *ahead                 // the slice that comes next; nil: none was read
	transport *http.Transport        // to repair agents
	strikes   map[string]int         // by job: letters in a row at which its fixer was stopped at a limit
	soonest   time.Duration          // until a job that this process looked at is due; 0 = unknown
	broken    map[string]openBreaker // by kind; as it was at brokenAt
	brokenAt  time.Time
	pruned    time.Time // when it last looked for what is old
	sql       statements
	steps     func(step string) // tests: called between the steps of a slice; nil = none
}

// New returns a Replayer.
func New(cfg Config, deps Deps) (*Replayer, error) {
	if cfg.Instance == "" || deps.DB == nil || deps.Claims == nil || deps.Catalog == nil {
		return nil, errors.New("replayer: it needs an instance name, a database, claims and a catalog")
	}
	if cfg.Lease <= 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 300 * time.Millisecond
	}
	if cfg.Slice <= 0 {
		cfg.Slice = 4000
	}
	if cfg.Keep <= 0 {
		cfg.Keep = defaultKeep
	}
	if cfg.KeepAudit <= 0 {
		cfg.KeepAudit = defaultKeepAudit
	}
	r := &Replayer{cfg: cfg, deps: deps, log: deps.Log, sql: statements{moveLetters, countMoved}, passed: map[string]pass{}, lookBack: farBehind, strikes: map[string]int{},
		letters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perdure_replayer_letters_total", Help: "Letters that replays looked at, by result: replayed, refused or would_replay."}, []string{"result"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perdure_replayer_ended_replays_total", Help: "Replays that ended by themselves, by state: done, or stopped by one of their rules."}, []string{"state"}),
	}
	r.transport = webhook.NewTransport(agentsAtOnce)
	if r.deps.Getenv == nil {
		r.deps.Getenv = os.Getenv
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		for _, c := range []prometheus.Collector{r.letters, r.ended} {
			if err := deps.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("replayer: metrics: %w", err)
			}
		}
	}
	return r, nil
}

// Run works on jobs until ctx ends, and then returns nil. With Postgres or
// Redis away it waits: no letter moves without a claim read.
func (r *Replayer) Run(ctx context.Context) error {
	defer r.transport.CloseIdleConnections()
	defer r.dropAhead()
	wait := r.cfg.Poll
	for ctx.Err() == nil {
		busy, err := r.turn(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.log.Warn("replayer: cannot go on now; tries again", "wait", wait, "err", err)
			wait = min(2*wait, 10*time.Second)
		case busy:
			wait = r.cfg.Poll
			continue
		default:
			r.pruneNow(ctx)
			wait = r.cfg.Poll
			if r.soonest > 0 {
				wait = min(wait, r.soonest)
			}
			r.soonest = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// turn counts outcomes and does one slice of one job. busy says that there may
// be more at once.
func (r *Replayer) turn(ctx context.Context) (busy bool, err error) {
	more, err := r.outcomes(ctx)
	if err != nil {
		return false, err
	}
	j, err := r.take(ctx)
	if err != nil {
		return false, err
	}
	if j == nil {
		if len(r.passed) > 1000 { // jobs that others ended
			clear(r.passed)
			clear(r.strikes)
		}
		return more, nil
	}
	r.step("taken")
	var pause time.Duration
	defer func() { r.release(ctx, j, pause) }()
	if pause, err = r.work(ctx, j); err != nil {
		return false, fmt.Errorf("replay %s: %w", j.id, err)
	}
	if pause > 0 && (r.soonest == 0 || pause < r.soonest) {
		r.soonest = pause
	}
	return true, nil
}

// atOnce is how many letters of a job may go before the next has its turn.
func (r *Replayer) atOnce(j *job) int {
	if j.spec.Fixer != nil {
		return max(1, r.cfg.Slice/4)
	}
	return r.cfg.Slice
}

// work does one slice, or moves the job to its next state. pause is how long
// the job has nothing to do.
func (r *Replayer) work(ctx context.Context, j *job) (pause time.Duration, err error) {
	if j.state == Planning {
		return r.look(ctx, j)
	}
	v := decide(j, r.atOnce(j))
	if v.to != "" {
		return 0, r.become(ctx, j, v.to, v.why)
	}
	if v.move == 0 {
		if j.stuck, err = r.canaryHeldBack(ctx, j); err != nil || j.stuck == "" {
			return v.pause, err
		}
		return 0, r.become(ctx, j, Stopped, j.stuck)
	}
	left, err := r.slice(ctx, j, v.move)
	if err == nil && j.stuck != "" {
		return 0, r.become(ctx, j, Stopped, j.stuck)
	}
	if err != nil || left {
		return 0, err
	}
	delete(r.passed, j.id)
	// Nothing changes: it was cancelled, or a letter is open again and has its turn later.
	return r.cfg.Poll, r.become(ctx, j, Done, "")
}

// A job ends only when every letter was looked at.
const becomeState = `
update perdure.replays set state = $3, note = $4, changed_at = clock_timestamp(), due_at = clock_timestamp(),
  ramp_at = case when $3 = 'ramping' then clock_timestamp() else ramp_at end,
  tokens = case when $3 = 'ramping' then least(tokens, 0) else tokens end
where replay = $1 and state = $2
  and ($3 <> 'done' or dry_run or not exists (select from perdure.replay_letters where replay = $1 and n > done_to and result = ''))`

// become moves a job on by itself. A person who moved it meanwhile wins.
func (r *Replayer) become(ctx context.Context, j *job, to State, why string) error {
	var changed bool
	err := pgx.BeginFunc(ctx, r.deps.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, becomeState, j.id, j.state, to, why)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		changed = true
		what := "replay.stop"
		switch to {
		case Stopped:
		case Done:
			what = "replay.done"
		default:
			return nil
		}
		return note(ctx, tx, "perdure", what, j.id, why, map[string]any{
			"hash": j.hash, "replayed": j.replayed, "completed": j.completed, "died_again": j.died, "left": j.left()})
	})
	if err != nil {
		return fmt.Errorf("from %s to %s: %w", j.state, to, err)
	}
	if changed && to.Over() {
		r.ended.WithLabelValues(string(to)).Inc()
	}
	if changed {
		r.log.Info("replayer: replay goes on", "replay", j.id, "from", j.state, "to", to, "why", why, "dry_run", j.dryRun)
	}
	return nil
}

func (r *Replayer) step(name string) {
	if r.steps != nil {
		r.steps(name)
	}
}

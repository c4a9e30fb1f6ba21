package replayer

// The runner of started jobs: a lease a job, a slice of its letters at a time.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/claims"
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
	Slice    int           // letters of one job before the next has its turn; default 500
}

// Deps are what a Replayer uses and does not own.
type Deps struct {
	DB       *pgxpool.Pool
	Claims   Claims
	Catalog  *schemas.Catalog
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics
}

// Replayer works on started replays. Any number of processes may run one.
type Replayer struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	letters *prometheus.CounterVec
	passed  map[string]int64  // by job: letters up to this n were looked at by this process
	steps   func(step string) // tests: called between the steps of a slice; nil = none
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
		cfg.Slice = 500
	}
	r := &Replayer{cfg: cfg, deps: deps, log: deps.Log, passed: map[string]int64{}, letters: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "perdure_replayer_letters_total", Help: "Letters that replays looked at, by result: replayed, refused or would_replay."}, []string{"result"})}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		if err := deps.Registry.Register(r.letters); err != nil {
			return nil, fmt.Errorf("replayer: metrics: %w", err)
		}
	}
	return r, nil
}

// Run works on jobs until ctx ends, and then returns nil. With Postgres or
// Redis away it waits: no letter moves without a claim read.
func (r *Replayer) Run(ctx context.Context) error {
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
			wait = r.cfg.Poll
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// The job that waited longest goes first, so that a large one starves nobody.
const takeJob = `
update perdure.replays set owner = $1, lease = clock_timestamp() + $2::interval, changed_at = clock_timestamp()
where replay = (
  select replay from perdure.replays
  where state = 'running' and (lease is null or lease < clock_timestamp() or owner = $1)
  order by changed_at, replay limit 1 for update skip locked)
returning replay, dry_run, who, why, selector ? 'ids'`

type job struct {
	id       string
	dryRun   bool
	who, why string
	named    bool // letters were chosen by id
}

// turn does one slice of one job. busy says that there may be more at once.
func (r *Replayer) turn(ctx context.Context) (busy bool, err error) {
	var j job
	err = r.deps.DB.QueryRow(ctx, takeJob, r.cfg.Instance, r.cfg.Lease).Scan(&j.id, &j.dryRun, &j.who, &j.why, &j.named)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take a replay: %w", err)
	}
	defer r.release(ctx, &j)
	left, err := r.slice(ctx, &j)
	if err != nil {
		return false, fmt.Errorf("replay %s: %w", j.id, err)
	}
	if left {
		return true, nil
	}
	delete(r.passed, j.id)
	tag, err := r.deps.DB.Exec(ctx, `update perdure.replays set state = 'done', changed_at = clock_timestamp()
where replay = $1 and state = 'running' and not exists (select from perdure.replay_letters where replay = $1 and result = '')`, j.id)
	if err != nil {
		return false, fmt.Errorf("replay %s: finish: %w", j.id, err)
	}
	if tag.RowsAffected() > 0 {
		r.log.Info("replayer: replay is done", "replay", j.id, "dry_run", j.dryRun)
	}
	// Nothing: it was cancelled, or a letter is open again and has its turn later.
	return tag.RowsAffected() > 0, nil
}

// release gives the lease back, also when ctx has ended; a process that is
// killed leaves it to run out.
func (r *Replayer) release(ctx context.Context, j *job) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := r.deps.DB.Exec(ctx, `update perdure.replays set lease = null, owner = '' where replay = $1 and owner = $2`, j.id, r.cfg.Instance); err != nil {
		r.log.Warn("replayer: cannot give a lease back; it runs out by itself", "replay", j.id, "err", err)
	}
}

func (r *Replayer) step(name string) {
	if r.steps != nil {
		r.steps(name)
	}
}

package dispatcher

// The role: what it needs, how it runs.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/dispatcher/internal/admission"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/schemas"
)

// Config is how a dispatcher behaves. The zero value is fine.
type Config struct {
	// MaxPayload in bytes; 0 is schemas.MaxPayload. With KAFKA_TOPICS=check it is
	// the topics' max.message.bytes less 128 KiB.
	MaxPayload int
	// TopicPrefix begins every topic and group.
	TopicPrefix string
	// OutboxLimit is how many rows of the outbox may wait for the relay before
	// posts are refused; 0 is any number.
	OutboxLimit int64

	now        func() time.Time // of rates and days; nil is time.Now
	maxBodies  int64            // 0 is maxBodies
	lineWait   time.Duration    // 0 is lineWait
	streamIdle time.Duration    // 0 is streamIdle
}

// DB is what the dispatcher needs of Postgres: *pgxpool.Pool has it.
type DB interface {
	client.DB
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
	Ping(ctx context.Context) error
}

// Deps are what a dispatcher works with. It closes none of them.
type Deps struct {
	DB      DB
	Catalog *schemas.Catalog
	Kafka   *kgo.Client // for the scaling signal only; nil: that route answers 503
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
}

// Dispatcher accepts tasks. Its routes answer 503 until Run has loaded the
// catalog, and again once Run has returned.
type Dispatcher struct {
	cfg     Config
	db      DB
	cat     *schemas.Catalog
	log     *slog.Logger
	bodies  bodies
	intake  *intake
	gate    *admission.Gate
	scaling *scaling
	client  atomic.Pointer[client.Client]
}

// New returns a dispatcher that does nothing yet. It talks to no server.
func New(cfg Config, deps Deps) (*Dispatcher, error) {
	if deps.DB == nil || deps.Catalog == nil || deps.Log == nil {
		return nil, errors.New("dispatcher: DB, Catalog and Log are required")
	}
	cfg.maxBodies = cmp.Or(cfg.maxBodies, maxBodies)
	cfg.lineWait, cfg.streamIdle = cmp.Or(cfg.lineWait, lineWait), cmp.Or(cfg.streamIdle, streamIdle)
	var adm *kadm.Client
	if deps.Kafka != nil {
		adm = kadm.NewClient(deps.Kafka)
	}
	d := &Dispatcher{cfg: cfg, db: deps.DB, cat: deps.Catalog, log: deps.Log, bodies: bodies{most: cfg.maxBodies}, intake: newIntake(cfg.maxBodies/leastBody, keyedOf(deps.DB)),
		gate:    admission.New(admission.Config{OutboxLimit: cfg.OutboxLimit, Now: cfg.now}, deps.DB, deps.Log),
		scaling: newScaling(deps.DB, deps.Catalog, adm, kafka.Names{Prefix: cfg.TopicPrefix})}
	m, err := newMetrics(deps.Metrics, func() float64 { return float64(d.bodies.held.Load()) }, d.gate)
	if err != nil {
		return nil, fmt.Errorf("dispatcher: metrics: %w", err)
	}
	d.intake.metrics = m
	return d, nil
}

// Run applies the catalog, then serves the posts that the routes take, until
// ctx ends; then it writes what was posted before. Stop the HTTP server first. It
// returns nil when ctx ended it.
func (d *Dispatcher) Run(ctx context.Context) error {
	if err := pg.CheckVersion(ctx, d.db); err != nil {
		return fmt.Errorf("dispatcher: %w", err)
	}
	changes, err := ApplyCatalog(ctx, d.db, d.cat, ApplyOptions{MaxPayload: d.cfg.MaxPayload})
	if err != nil {
		return fmt.Errorf("dispatcher: %w", err)
	}
	for _, c := range changes {
		d.log.InfoContext(ctx, "catalog applied", "what", c.What, "name", c.Name, "action", c.Action)
	}
	c, err := client.New(ctx, d.db, client.WithLockTimeout(keyTry))
	if err != nil {
		return fmt.Errorf("dispatcher: %w", err)
	}
	d.client.Store(c)
	defer d.client.Store(nil)
	var wg sync.WaitGroup
	wg.Go(func() { d.intake.run(ctx, c) })
	wg.Go(func() { d.sweep(ctx) })
	wg.Go(func() { d.gate.Run(ctx) })
	wg.Wait()
	return nil
}

// Ready says why tasks cannot be accepted now; nil if they can. It asks
// Postgres.
func (d *Dispatcher) Ready(ctx context.Context) error {
	if d.client.Load() == nil {
		return errStopping
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := d.db.Ping(ctx); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// problem answers err, and logs what the answer cannot say.
func (d *Dispatcher) problem(ctx context.Context, err error) *api.Problem {
	if p := problemOf(err); p != nil {
		return p
	}
	d.log.ErrorContext(ctx, "task was not accepted", "error", err)
	return api.NewProblem(500, "internal", "internal error; the server's log has it")
}

const (
	sweepEvery = time.Minute
	sweepRows  = 5000
)

// sweep deletes idempotency keys that have expired, a few at a time.
func (d *Dispatcher) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for {
			n, err := d.sweepOnce(ctx)
			if err != nil && ctx.Err() == nil {
				d.log.WarnContext(ctx, "expired idempotency keys were not deleted", "error", err)
			}
			if err != nil || n < sweepRows {
				break
			}
		}
	}
}

// sweepKeys skips keys that are being taken over at this moment. By
// statement_timestamp(): by a clock that moves within the statement no index is read.
const sweepKeys = `
delete from perdure.unique_keys k using (
  select scope, key from perdure.unique_keys where expires < statement_timestamp()
  order by expires limit $1 for update skip locked) old
where k.scope = old.scope and k.key = old.key`

func (d *Dispatcher) sweepOnce(ctx context.Context) (int64, error) {
	tag, err := d.db.Exec(ctx, sweepKeys, sweepRows)
	return tag.RowsAffected(), err
}

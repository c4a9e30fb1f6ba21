package relay

// What a relay is given, and its life: outbox and delay topics side by side.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Config is what one relay needs to know. Source and Owner are required; a zero
// duration or number takes the default that stands beside it.
type Config struct {
	Source  string        // PERDURE_SOURCE: the database's name, and the lease's shard
	Owner   string        // this process's name, unique in the fleet
	Release string        // version of this program, kept with each letter
	History time.Duration // 168h: how long relayed rows and the relay log are kept

	Chunk      int           // 8000: rows of a pass at most
	ChunkBytes int           // 8 MiB: payload bytes of a pass at most, the last row excepted
	LeaseTTL   time.Duration // 5s: a relay that was stopped, or whose host is gone, is replaced after this long; a killed one at once
	Standby    time.Duration // 50ms: how often a standby looks at the lease; one look costs about 0.1 ms
	Pace       time.Duration // 3ms: between the beginnings of two moves of the cursor at least, while fewer than a handful of tasks go with each
	Idle       time.Duration // 10ms: the longest pause between two looks for writes; see await
	Patience   time.Duration // 2s: a topic that acknowledges nothing for this long while others do is parked
	Delivery   time.Duration // 30s: how long the client tries a record before the pass is begun anew
	Probe      time.Duration // 2s: how often a parked queue is tried again
	Upkeep     time.Duration // 30s: how often partitions are made and emptied, tables pruned
	Trim       time.Duration // 10m: how often finished records are trimmed from task topics
	Grace      time.Duration // 10s: for the pass under way when Run is told to stop
}

func (c *Config) defaults() {
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&c.History, 168 * time.Hour},
		{&c.LeaseTTL, 5 * time.Second},
		{&c.Standby, 50 * time.Millisecond},
		{&c.Pace, 3 * time.Millisecond},
		{&c.Idle, 10 * time.Millisecond},
		{&c.Patience, 2 * time.Second},
		{&c.Delivery, 30 * time.Second},
		{&c.Probe, 2 * time.Second},
		{&c.Upkeep, 30 * time.Second},
		{&c.Trim, 10 * time.Minute},
		{&c.Grace, 10 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	if c.Chunk <= 0 {
		c.Chunk = 8_000
	}
	if c.ChunkBytes <= 0 {
		c.ChunkBytes = 8 << 20
	}
}

// Deps are the servers and what describes them. The relay closes none of them.
type Deps struct {
	DB       *pgxpool.Pool // direct, never through a transaction pooler
	Kafka    []kgo.Opt     // brokers, TLS, SASL, client id; the relay opens clients of its own with them
	Names    kafka.Names
	Catalog  *schemas.Catalog
	Log      *slog.Logger          // nil: silent
	Registry prometheus.Registerer // nil: no metrics
}

// Relay moves one source's outbox, and shares the delay topics with all others.
type Relay struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	sql     statements
	metrics *metrics
	broker  brokerHook
	seams   seams

	schedules []*schemas.Kind // that this source files by the clock

	fence int64 // of this process's last term; 0 = none yet
	high  int64 // highest id that this process saw acknowledged

	refused map[string]int32 // topics that found a record too large; see refuse

	mu     sync.Mutex
	status Status
}

// seams are where tests stop the relay at a moment; all nil otherwise.
type seams struct {
	beforeRead   func(context.Context, *term) error          // on the pass's connection
	afterRead    func(context.Context, *term, *window) error // nothing is produced yet
	beforeCursor func(context.Context, *term, *window) error // all is acknowledged, nothing is moved
	unchanged    func()                                      // a pass that did not have to read
	moved        func(context.Context, *term, *window) error // the cursor stands at this window's end
}

// New makes a relay; it connects to nothing.
func New(cfg Config, deps Deps) (*Relay, error) {
	cfg.defaults()
	switch {
	case !schemas.ValidSource(cfg.Source):
		return nil, fmt.Errorf("relay: %q cannot name a source (PERDURE_SOURCE): want 1 to 32 of [a-z0-9-]", cfg.Source)
	case cfg.Owner == "":
		return nil, errors.New("relay: the owner has no name (PERDURE_INSTANCE)")
	case deps.DB == nil, len(deps.Kafka) == 0, deps.Catalog == nil:
		return nil, errors.New("relay: needs a database, Kafka options and a catalog")
	case len(deps.Catalog.Queues) == 0:
		return nil, errors.New("relay: the catalog has no queue")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	r := &Relay{
		cfg: cfg, deps: deps,
		log: deps.Log.With("part", "relay", "source", cfg.Source),
		sql: newStatements(), refused: map[string]int32{},
		schedules: schedulesOf(deps.Catalog, cfg.Source),
	}
	var err error
	if r.metrics, err = newMetrics(deps.Registry, deps.Catalog.QueueNames()); err != nil {
		return nil, err
	}
	r.status = Status{State: StateStarting, Since: time.Now()}
	return r, nil
}

// Run relays until ctx ends, and then returns nil: the pass under way is
// finished within Config.Grace, the lease is given back, and a standby goes on.
// While a server is away it waits, and Status says for which. Any error is final;
// a *HaltError says that a person must decide before anything is relayed.
func (r *Relay) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.runOutbox(gctx) })
	g.Go(func() error { return r.runRetries(gctx) })
	err := g.Wait()
	if ctx.Err() != nil && !isHalt(err) {
		return nil
	}
	return err
}

// runOutbox is standby, then active, then standby again, until ctx ends.
func (r *Relay) runOutbox(ctx context.Context) error {
	pause := newBackoff(100*time.Millisecond, 5*time.Second)
	for ctx.Err() == nil {
		began := time.Now()
		err := r.oneTerm(ctx)
		switch {
		case ctx.Err() != nil && !isHalt(err):
			if err != nil && !errors.Is(err, context.Canceled) {
				r.log.Warn("stopped, though not in order", "cause", err)
			}
			return nil
		case isHalt(err):
			r.setState(StateHalted, err)
			r.metrics.halted.Set(1)
			return err
		case errors.Is(err, errLeaseLost):
			r.log.Warn("lost the lease, standing by", "cause", err)
			r.metrics.leaseLost.Inc()
			r.setState(StateStandby, err)
		default:
			r.log.Error("cannot relay now, trying again", "cause", err)
			r.setState(StateWaiting, err)
		}
		if time.Since(began) > 30*time.Second {
			pause.reset()
		}
		sleep(ctx, pause.next())
	}
	return nil
}

// backoff gives growing pauses.
type backoff struct{ first, most, now time.Duration }

func newBackoff(first, most time.Duration) *backoff { return &backoff{first: first, most: most} }

func (b *backoff) reset() { b.now = 0 }

func (b *backoff) next() time.Duration {
	b.now = min(max(2*b.now, b.first), b.most)
	return b.now
}

// sleep returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

package admission

// The gate: one a dispatcher, and of each token's name a Producer.

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/internal/api"
)

// DB is what the gate needs of Postgres: *pgxpool.Pool has it.
type DB interface {
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Config of a Gate. The zero value limits nothing but the process's streams.
type Config struct {
	// OutboxLimit is how many rows may wait for the relay; 0 = any number.
	OutboxLimit int64
	// Now is the clock of rates and days; nil is time.Now.
	Now func() time.Time
}

// Gate may be used by many goroutines.
type Gate struct {
	db      DB
	log     *slog.Logger
	now     func() time.Time
	backlog *backlog
	streams slots // of the whole process

	mu        sync.Mutex
	producers map[string]*Producer // by name: those of the token file
}

// New returns an open gate; Run measures the backlog that closes it.
func New(cfg Config, db DB, log *slog.Logger) *Gate {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Gate{db: db, log: log, now: cfg.Now, backlog: newBacklog(cfg.OutboxLimit), streams: slots{most: processStreams}, producers: map[string]*Producer{}}
}

// Run measures until ctx ends, then gives back what was reserved of quotas and
// not used.
func (g *Gate) Run(ctx context.Context) {
	var wg sync.WaitGroup
	if g.backlog.limit > 0 {
		wg.Go(func() { g.measure(ctx) })
	}
	wg.Go(func() { g.prune(ctx) })
	wg.Wait()
	g.giveBack(context.WithoutCancel(ctx))
}

// Producer is who enqueues: all the tokens of one name.
type Producer struct {
	gate    *Gate
	name    string
	limits  api.Limits
	rate    *bucket // nil: any
	quota   *quota  // nil: any
	streams slots
}

// Producer returns the one that made the request of ctx. Without tokens it has
// no limits.
func (g *Gate) Producer(ctx context.Context) *Producer {
	name, limits := api.Who(ctx), api.LimitsOf(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.producers[name]
	if p == nil {
		p = &Producer{gate: g, name: name, limits: limits, streams: slots{most: limits.Streams}}
		if limits.Rate > 0 {
			p.rate = newBucket(limits)
		}
		if limits.Quota > 0 {
			p.quota = newQuota(name, limits.Quota)
		}
		g.producers[name] = p
	}
	return p
}

func (g *Gate) all() []*Producer {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*Producer, 0, len(g.producers))
	for _, p := range g.producers {
		list = append(list, p)
	}
	return list
}

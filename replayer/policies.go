package replayer

// Policies: replays, discards and holds that the catalog asks for, without a
// person. Each policy is looked at by one process at a time, acts within its
// limits, and switches itself off when it makes nothing better.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

// PolicyConfig is the Config of Policies. Zero values mean the defaults.
type PolicyConfig struct {
	Every    time.Duration // how often each policy is looked at; default 2s
	Lease    time.Duration // of a policy, on the database's clock; default 30s
	Patience time.Duration // for the outcomes of a replay that is over; default 10m
}

// PolicyDeps are what Policies use and do not own.
type PolicyDeps struct {
	DB       *pgxpool.Pool
	Catalog  *schemas.Catalog
	JQ       []string              // as a Replayer's; empty = no policy has a condition
	Getenv   func(string) string   // reads secrets of notices; nil = os.Getenv
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics

	// Workers are those that beat; nil = no policy that waits for a release acts.
	Workers func(ctx context.Context) ([]LiveWorker, error)
}

// Policies works on the catalog's policies. Any number of processes may run one.
type Policies struct {
	cfg  PolicyConfig
	deps PolicyDeps
	jobs *Jobs
	log  *slog.Logger
	acts *prometheus.CounterVec
	on   *prometheus.GaugeVec

	open string            // the open letters as this round began; "" = not asked
	last map[string]looked // by policy

	sighted time.Time // when running releases were last written down

	notices   *prometheus.CounterVec
	transport *http.Transport // of notices
}

// NewPolicies returns Policies over the catalog's.
func NewPolicies(cfg PolicyConfig, deps PolicyDeps) (*Policies, error) {
	if deps.DB == nil || deps.Catalog == nil {
		return nil, errors.New("policies: they need a database and a catalog")
	}
	if cfg.Every <= 0 {
		cfg.Every = 2 * time.Second
	}
	if cfg.Lease <= 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 10 * time.Minute
	}
	p := &Policies{cfg: cfg, deps: deps, jobs: NewJobs(deps.DB, deps.Catalog, deps.JQ), log: deps.Log, last: map[string]looked{},
		acts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perdure_replayer_policy_letters_total", Help: "Letters that policies acted on, by policy."}, []string{"policy"}),
		on: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "perdure_replayer_policy_enabled", Help: "1 = the policy acts; 0 = a person, or the policy itself, switched it off."}, []string{"policy"}),
	}
	p.notices = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "perdure_replayer_policy_notices_total", Help: "Tries to tell of failure groups by webhook, by result: sent, failed (tried again) or lost (given up)."}, []string{"policy", "result"})
	p.transport = webhook.NewTransport(1)
	if p.deps.Getenv == nil {
		p.deps.Getenv = os.Getenv
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		for _, c := range []prometheus.Collector{p.acts, p.on, p.notices} {
			if err := deps.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("policies: metrics: %w", err)
			}
		}
	}
	return p, nil
}

// Run looks at every policy again and again until ctx ends, and then returns nil.
func (p *Policies) Run(ctx context.Context) error {
	var sends sync.WaitGroup
	sends.Go(func() { p.deliveries(ctx) }) // apart: who is told may take long to answer
	defer sends.Wait()
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for {
		p.sightSometimes(ctx)
		if len(p.deps.Catalog.Policies) > 0 {
			p.open = p.letters(ctx)
		}
		for _, name := range p.deps.Catalog.PolicyNames() {
			if err := p.look(ctx, p.deps.Catalog.Policies[name]); err != nil && ctx.Err() == nil {
				p.log.Warn("policies: cannot look now; tries again", "policy", name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// standing is a policy's row while this process holds its lease.
type standing struct {
	enabled bool
	strikes int
	replay  *string
	judged  bool
	total   int64
	told    string
	lease   time.Time
	changed time.Time
}

const takePolicy = `
with n as (insert into perdure.policies (policy) values ($1) on conflict do nothing)
update perdure.policies set lease = clock_timestamp() + $2::interval
where policy = $1 and (lease is null or lease < clock_timestamp())
returning enabled, strikes, replay, judged, total, told, lease, changed_at`

// look does what is due of one policy, if no other process is at it.
func (p *Policies) look(ctx context.Context, pol *schemas.Policy) error {
	var s standing
	err := p.deps.DB.QueryRow(ctx, takePolicy, pol.Name, p.cfg.Lease).Scan(&s.enabled, &s.strikes, &s.replay, &s.judged, &s.total, &s.told, &s.lease, &s.changed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // another is at it, or its row was made just now
	}
	if err != nil {
		return fmt.Errorf("take policy %s: %w", pol.Name, err)
	}
	defer p.release(ctx, pol, &s)
	p.on.WithLabelValues(pol.Name).Set(map[bool]float64{true: 1}[s.enabled])
	if waits, err := p.judge(ctx, pol, &s); err != nil || waits || !s.enabled {
		return err
	}
	began := time.Now()
	if p.unchanged(pol, &s, began) {
		return nil
	}
	groups, err := p.matching(ctx, pol, s.strikes)
	if err != nil {
		return err
	}
	p.found(pol, &s, groups, began)
	for _, g := range groups {
		if g.Waits != "" {
			continue
		}
		room, err := p.room(ctx, pol, &s)
		if err != nil {
			return err
		}
		if room <= 0 {
			return p.say(ctx, pol, &s, "its limit is reached: it goes on when the hour, or a person, allows more")
		}
		n := min(room, g.Letters)
		if pol.DryRun {
			if pol.Action == "notify" {
				n = g.Letters
			}
			if err := p.sayOf(ctx, pol, g, fmt.Sprintf("would %s %s of group %s", pol.Action, letters(n), g.Group)); err != nil {
				return err
			}
			continue
		}
		return p.act(ctx, pol, &s, g, n)
	}
	return nil
}

func (p *Policies) release(ctx context.Context, pol *schemas.Policy, s *standing) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if _, err := p.deps.DB.Exec(ctx, `update perdure.policies set lease = null where policy = $1 and lease = $2`, pol.Name, s.lease); err != nil {
		p.log.Warn("policies: cannot give a lease back; it runs out by itself", "policy", pol.Name, "err", err)
	}
}

// room is how many letters the limits allow now.
func (p *Policies) room(ctx context.Context, pol *schemas.Policy, s *standing) (int64, error) {
	var used int64
	if err := p.deps.DB.QueryRow(ctx, `select coalesce(sum(letters), 0)::bigint from perdure.policy_minutes
where policy = $1 and minute > clock_timestamp() - interval '1 hour'`, pol.Name).Scan(&used); err != nil {
		return 0, fmt.Errorf("read limits of policy %s: %w", pol.Name, err)
	}
	room := int64(pol.PerHour) - used
	if pol.Total > 0 {
		room = min(room, int64(pol.Total)-s.total)
	}
	return room, nil
}

// say notes what a policy did, or would do, once.
func (p *Policies) say(ctx context.Context, pol *schemas.Policy, s *standing, what string) error {
	if what == s.told {
		return nil
	}
	s.told = what
	p.log.Info("policy: "+what, "policy", pol.Name)
	_, err := p.deps.DB.Exec(ctx, `update perdure.policies set told = $2, note = $2, changed_at = clock_timestamp() where policy = $1`, pol.Name, what)
	return err
}

const tellGroup = `
with g as (
  insert into perdure.policy_groups (policy, fingerprint, told) values ($1, $2, $3)
  on conflict (policy, fingerprint) do update set told = excluded.told, at = clock_timestamp())
update perdure.policies set note = $3, changed_at = clock_timestamp() where policy = $1`

// sayOf is say of one group.
func (p *Policies) sayOf(ctx context.Context, pol *schemas.Policy, g PolicyGroup, what string) error {
	if what == g.told {
		return nil
	}
	p.log.Info("policy: "+what, "policy", pol.Name)
	_, err := p.deps.DB.Exec(ctx, tellGroup, pol.Name, g.Group, what)
	return err
}

package replayer

// Policies: replays, discards and holds that the catalog asks for, without a
// person. Each policy is looked at by one process at a time, acts within its
// limits, and switches itself off when it makes nothing better.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

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
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics
}

// Policies works on the catalog's policies. Any number of processes may run one.
type Policies struct {
	cfg  PolicyConfig
	deps PolicyDeps
	jobs *Jobs
	log  *slog.Logger
	acts *prometheus.CounterVec
	on   *prometheus.GaugeVec
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
	p := &Policies{cfg: cfg, deps: deps, jobs: NewJobs(deps.DB, deps.Catalog), log: deps.Log,
		acts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perdure_replayer_policy_letters_total", Help: "Letters that policies acted on, by policy."}, []string{"policy"}),
		on: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "perdure_replayer_policy_enabled", Help: "1 = the policy acts; 0 = a person, or the policy itself, switched it off."}, []string{"policy"}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry != nil {
		for _, c := range []prometheus.Collector{p.acts, p.on} {
			if err := deps.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("policies: metrics: %w", err)
			}
		}
	}
	return p, nil
}

// Run looks at every policy again and again until ctx ends, and then returns nil.
func (p *Policies) Run(ctx context.Context) error {
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for {
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
}

const takePolicy = `
with n as (insert into perdure.policies (policy) values ($1) on conflict do nothing)
update perdure.policies set lease = clock_timestamp() + $2::interval
where policy = $1 and (lease is null or lease < clock_timestamp())
returning enabled, strikes, replay, judged, total, told, lease`

// look does what is due of one policy, if no other process is at it.
func (p *Policies) look(ctx context.Context, pol *schemas.Policy) error {
	var s standing
	err := p.deps.DB.QueryRow(ctx, takePolicy, pol.Name, p.cfg.Lease).Scan(&s.enabled, &s.strikes, &s.replay, &s.judged, &s.total, &s.told, &s.lease)
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
	groups, err := matching(ctx, p.deps.DB, pol, s.strikes)
	if err != nil {
		return err
	}
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
			if err := p.say(ctx, pol, &s, fmt.Sprintf("would %s %d letters of group %s", pol.Action, n, g.Group)); err != nil {
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

// PolicyGroup is a failure group that a policy matches.
type PolicyGroup struct {
	Group   string    `json:"group"`
	Letters int64     `json:"letters" doc:"open letters that it would act on; at most 100,000 are counted"`
	First   time.Time `json:"first_seen"`
	Last    time.Time `json:"last_seen"`
	Sample  string    `json:"sample"`
	Waits   string    `json:"waits,omitempty" doc:"what it waits for; absent = it acts"`
}

// Letters of unknown effect are never a policy's: they need the reconcile hook
// or a person. The patterns are LIKE's. Groups come from their counts; what a group's
// letters say is looked for in the latest of them, for they are of one cause.
const matchGroups = `
with g as materialized (
  select distinct fingerprint from perdure.groups_now
  where state = 'open' and reason <> 'unknown' and kind like $1 and ($4 = '' or reason = $4)),
m as materialized (
  select fingerprint from g where exists (
    select from (
      select error_class, message from perdure.dead_letters d where d.fingerprint = g.fingerprint ` + ofPolicy + ` order by died_at desc limit 1000) l
    where error_class like $2 and message like $3))
select m.fingerprint, (select count(*) from (select from perdure.dead_letters d where d.fingerprint = m.fingerprint ` + matched + ` limit $6) n),
  first.died_at, last.died_at, first.letter,
  extract(epoch from clock_timestamp() - last.died_at)::float8, extract(epoch from clock_timestamp() - first.died_at)::float8
from m
cross join lateral (select died_at, letter from perdure.dead_letters d where d.fingerprint = m.fingerprint ` + matched + ` order by died_at, letter limit 1) first
cross join lateral (select died_at from perdure.dead_letters d where d.fingerprint = m.fingerprint ` + matched + ` order by died_at desc limit 1) last
order by first.died_at, m.fingerprint limit 1000`

const (
	// The cases keep Postgres from the guess that few of a cause's letters are of its kind, reason and class.
	ofPolicy = `and state = 'open' and case when reason <> 'unknown' and coalesce(kind, '') like $1 and ($4 = '' or reason = $4) and epoch < $5 then true end`
	matched  = ofPolicy + ` and case when error_class like $2 and message like $3 then true end`

	// policyMost is how many letters of a group a policy counts, and acts on at once.
	policyMost = 100_000
)

func matchArgs(pol *schemas.Policy) []any {
	w := &pol.When
	return []any{cmp.Or(like(w.Kind), "%"), cmp.Or(like(w.Class), "%"), cmp.Or(like(w.Message), "%"), w.Reason, pol.MaxReplays}
}

// matching are the groups of a policy, the oldest cause first. Each strike
// doubles how long a group must be quiet.
func matching(ctx context.Context, db *pgxpool.Pool, pol *schemas.Policy, strikes int) ([]PolicyGroup, error) {
	rows, err := db.Query(ctx, matchGroups, append(matchArgs(pol), policyMost)...)
	if err != nil {
		return nil, fmt.Errorf("find groups: %w", err)
	}
	quiet := pol.Wait.Quiet << min(strikes, 10)
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g PolicyGroup, err error) {
		var sinceLast, sinceFirst float64
		if err = r.Scan(&g.Group, &g.Letters, &g.First, &g.Last, &g.Sample, &sinceLast, &sinceFirst); err != nil {
			return g, err
		}
		switch {
		case sinceLast < quiet.Seconds():
			g.Waits = fmt.Sprintf("its latest death is %.0f s ago; it must be quiet for %s", sinceLast, quiet)
		case sinceFirst < pol.Wait.Age.Seconds():
			g.Waits = fmt.Sprintf("its oldest letter is %.0f s old; it waits until it is %s", sinceFirst, pol.Wait.Age)
		}
		return g, nil
	})
	if err != nil {
		return nil, fmt.Errorf("find groups: %w", err)
	}
	return list, nil
}

// like turns a pattern with * into LIKE's; "" stays.
func like(pattern string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`).Replace(pattern)
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

// errLease: another process took the policy over meanwhile.
var errLease = errors.New("its lease ran out")

// charge takes n letters off the limits before anything is done with them:
// whoever is killed in between has spent them.
const charge = `
with p as (
  update perdure.policies set total = total + $3, acts = acts + 1, acted_at = clock_timestamp(), replay = null, judged = false,
    note = $4, told = '', changed_at = clock_timestamp()
  where policy = $1 and lease = $2 and lease > clock_timestamp() and enabled returning policy),
old as (delete from perdure.policy_minutes where policy = $1 and minute < clock_timestamp() - interval '2 hours')
insert into perdure.policy_minutes (policy, minute, letters) select policy, date_trunc('minute', clock_timestamp()), $3 from p
on conflict (policy, minute) do update set letters = policy_minutes.letters + excluded.letters`

func (p *Policies) act(ctx context.Context, pol *schemas.Policy, s *standing, g PolicyGroup, n int64) error {
	why := fmt.Sprintf("policy %s: %s %d letters of group %s", pol.Name, pol.Action, n, g.Group)
	tag, err := p.deps.DB.Exec(ctx, charge, pol.Name, s.lease, n, why)
	if err != nil {
		return fmt.Errorf("act on group %s: %w", g.Group, err)
	}
	if tag.RowsAffected() == 0 {
		return errLease
	}
	p.acts.WithLabelValues(pol.Name).Add(float64(n))
	who := "policy:" + pol.Name
	if pol.Action != "replay" {
		if err := p.dispose(ctx, pol, who, why, g, n); err != nil {
			return err
		}
		_, err := p.deps.DB.Exec(ctx, `update perdure.policies set judged = true, strikes = 0 where policy = $1`, pol.Name)
		return err
	}
	id, err := p.jobs.Plan(ctx, Plan{Who: who, Why: why, Start: true, Spec: Spec{
		Selector: Selector{Group: g.Group, Kind: pol.When.Kind, Class: pol.When.Class, Message: pol.When.Message, Reason: pol.When.Reason, MaxReplays: pol.MaxReplays},
		Where:    pol.Where, Limit: int(n), Rate: pol.Rate, Ramp: Duration(pol.Ramp),
		Canary: Canary{Letters: pol.Canary, Success: pol.Success}, Fixer: fixerNamed(pol.Fixer),
	}})
	if err != nil {
		return fmt.Errorf("replay group %s: %w", g.Group, err)
	}
	p.log.Info(why, "replay", id)
	_, err = p.deps.DB.Exec(ctx, `update perdure.policies set replay = $2 where policy = $1`, pol.Name, id)
	return err
}

// A task that is discarded holds no unique key any more: that goes with its letter.
// An undecodable letter only claims to be a task's. k is joined so that it is asked
// at all.
const disposeLetters = `
with p as materialized (
  select letter from perdure.dead_letters where fingerprint = $6 ` + matched + ` order by letter limit $7 for update),
l as (
  update perdure.dead_letters d set state = $8, resolved_by = case when $8 = 'discarded' then 'discard' else '' end, changed_at = clock_timestamp()
  from p where d.letter = p.letter and d.state = 'open' returning d.letter, d.task_id, d.reason),
k as materialized (select perdure.release_unique(array_agg(task_id) filter (where reason <> 'undecodable')) from l where $8 = 'discarded')
insert into perdure.audit (who, what, letter, why) select $9, $10, letter, $11 from l cross join k`

// dispose discards or holds letters, some at a time.
func (p *Policies) dispose(ctx context.Context, pol *schemas.Policy, who, why string, g PolicyGroup, n int64) error {
	state := map[string]schemas.LetterState{"discard": schemas.LetterDiscarded, "hold": schemas.LetterHeld}[pol.Action]
	for n > 0 {
		slice := min(n, 1000)
		tag, err := p.deps.DB.Exec(ctx, disposeLetters, append(matchArgs(pol), g.Group, slice, string(state), who, "letter."+pol.Action, why)...)
		if err != nil {
			return fmt.Errorf("%s group %s: %w", pol.Action, g.Group, err)
		}
		if tag.RowsAffected() < slice {
			return nil
		}
		n -= slice
	}
	return nil
}

// judge looks at what the last replay came to. waits says that it is not known
// yet: until then the policy does nothing else.
func (p *Policies) judge(ctx context.Context, pol *schemas.Policy, s *standing) (waits bool, err error) {
	if s.judged {
		return false, nil
	}
	bad, off := "", ""
	if s.replay != nil { // else it was killed before it planned one
		r, err := p.jobs.glance(ctx, *s.replay)
		switch {
		case errors.Is(err, ErrNoReplay):
		case err != nil:
			return false, err
		case !r.State.Over(), r.Became.UnderWay > 0 && time.Since(r.ChangedAt) < p.cfg.Patience:
			return true, nil
		case r.State == Cancelled:
			off = fmt.Sprintf("a person cancelled its replay %s", r.ID)
		case r.State == Stopped:
			bad = fmt.Sprintf("its replay %s stopped itself: %s", r.ID, r.Note)
		case r.Became.DiedAgain > r.Became.Completed:
			bad = fmt.Sprintf("of its replay %s %d died again and %d completed", r.ID, r.Became.DiedAgain, r.Became.Completed)
		case r.Letters > 0 && r.Replayed == 0:
			bad = fmt.Sprintf("all letters of its replay %s were refused", r.ID)
		}
	}
	if bad == "" {
		s.strikes = 0
	} else if s.strikes++; s.strikes >= pol.Strikes {
		off = fmt.Sprintf("it made nothing better %d times in a row; the last: %s", s.strikes, bad)
	}
	s.judged, s.enabled = true, s.enabled && off == ""
	err = pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `update perdure.policies set judged = true, strikes = $2, enabled = enabled and $3 = '',
  note = case when $3 <> '' then $3 when $4 <> '' then $4 else note end, changed_at = clock_timestamp() where policy = $1`, pol.Name, s.strikes, off, bad); err != nil {
			return err
		}
		if off == "" {
			return nil
		}
		return note(ctx, tx, "perdure", "policy.disable", "", off, map[string]any{"policy": pol.Name})
	})
	if off != "" && err == nil {
		p.log.Error("policy switched itself off: "+off, "policy", pol.Name, "next", "perdure policy enable "+pol.Name)
	}
	return false, err
}

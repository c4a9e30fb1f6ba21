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
	JQ       []string              // as a Replayer's; empty = no policy has a condition
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
	p := &Policies{cfg: cfg, deps: deps, jobs: NewJobs(deps.DB, deps.Catalog, deps.JQ), log: deps.Log,
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
			if err := p.sayOf(ctx, pol, g, fmt.Sprintf("would %s %d letters of group %s", pol.Action, n, g.Group)); err != nil {
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

	told string // of it, by a dry run
}

// restTime is after how long a group that rests is looked at again: a task that ran
// when its letter was refused may have ended.
const restTime = time.Hour

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
select m.fingerprint, c.n, first.died_at, last.died_at, first.letter,
  extract(epoch from clock_timestamp() - last.died_at)::float8, extract(epoch from clock_timestamp() - first.died_at)::float8,
  coalesce(k.told, ''), r.rests
from m
cross join lateral (select count(*) as n from (select from perdure.dead_letters d where d.fingerprint = m.fingerprint ` + matched + ` limit $6) n) c
cross join lateral (select died_at, letter from perdure.dead_letters d where d.fingerprint = m.fingerprint ` + matched + ` order by died_at, letter limit 1) first
cross join lateral (select died_at from perdure.dead_letters d where d.fingerprint = m.fingerprint ` + matched + ` order by died_at desc limit 1) last
left join perdure.policy_groups k on k.policy = $7 and k.fingerprint = m.fingerprint
cross join lateral (select coalesce(c.n <= k.rest_letters and last.died_at <= k.rest_last and k.rest_as = $8
  and k.turn_at > clock_timestamp() - $9::interval, false) as rests) r
order by r.rests, k.turn_at nulls first, first.died_at, m.fingerprint limit 1000`

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

// digest tells a policy from what it was.
func digest(pol *schemas.Policy) string { return sha256Hex(fmt.Sprintf("%+v", *pol)) }

// matching are the groups of a policy in the order of their turns: the one that
// waits longest for it first, the oldest cause among those that had none. Each
// strike doubles how long a group must be quiet.
func matching(ctx context.Context, db *pgxpool.Pool, pol *schemas.Policy, strikes int) ([]PolicyGroup, error) {
	rows, err := db.Query(ctx, matchGroups, append(matchArgs(pol), policyMost, pol.Name, digest(pol), restTime)...)
	if err != nil {
		return nil, fmt.Errorf("find groups: %w", err)
	}
	quiet := pol.Wait.Quiet << min(strikes, 10)
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g PolicyGroup, err error) {
		var sinceLast, sinceFirst float64
		var rests bool
		if err = r.Scan(&g.Group, &g.Letters, &g.First, &g.Last, &g.Sample, &sinceLast, &sinceFirst, &g.told, &rests); err != nil {
			return g, err
		}
		switch {
		case rests:
			g.Waits = "none of these letters can go: its replays refused them, or its where leaves them out; it waits for new ones"
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

// errLease: another process took the policy over meanwhile.
var errLease = errors.New("its lease ran out")

// errNothing: no letter of a group can go.
var errNothing = errors.New("no letter can go")

// chargeLetters takes letters off the limits in the transaction that does something
// with them. An act without a replay is over with it.
const chargeLetters = `
with p as (
  update perdure.policies set total = total + $3, acts = acts + 1, acted_at = clock_timestamp(), replay = $5, judged = $5::text is null,
    strikes = case when $5::text is null then 0 else strikes end, note = $4, told = '', changed_at = clock_timestamp()
  where policy = $1 and lease = $2 and lease > clock_timestamp() and enabled returning policy),
old as (delete from perdure.policy_minutes where policy = $1 and minute < clock_timestamp() - interval '2 hours'),
g as (
  insert into perdure.policy_groups (policy, fingerprint, turn_at) select policy, $6, clock_timestamp() from p
  on conflict (policy, fingerprint) do update set turn_at = excluded.turn_at, told = '', rest_letters = null, at = clock_timestamp())
insert into perdure.policy_minutes (policy, minute, letters) select policy, date_trunc('minute', clock_timestamp()), $3 from p
on conflict (policy, minute) do update set letters = policy_minutes.letters + excluded.letters`

func (p *Policies) charge(ctx context.Context, tx pgx.Tx, pol *schemas.Policy, s *standing, g PolicyGroup, n int64, replay *string) error {
	what := fmt.Sprintf("%s %d letters of group %s", pol.Action, n, g.Group)
	tag, err := tx.Exec(ctx, chargeLetters, pol.Name, s.lease, n, what, replay, g.Group)
	if err == nil && tag.RowsAffected() == 0 {
		err = errLease
	}
	return err
}

func (p *Policies) act(ctx context.Context, pol *schemas.Policy, s *standing, g PolicyGroup, n int64) error {
	who, why := "policy:"+pol.Name, fmt.Sprintf("policy %s: %s letters of group %s", pol.Name, pol.Action, g.Group)
	if pol.Action != "replay" {
		return p.dispose(ctx, pol, s, who, why, g, n)
	}
	var frozen int64
	id, err := p.jobs.Plan(ctx, Plan{Who: who, Why: why, Start: true, Spec: Spec{
		Selector: Selector{Group: g.Group, Kind: pol.When.Kind, Class: pol.When.Class, Message: pol.When.Message, Reason: pol.When.Reason, MaxReplays: pol.MaxReplays},
		Where:    pol.Where, Limit: int(n), Rate: pol.Rate, Ramp: Duration(pol.Ramp),
		Canary: Canary{Letters: pol.Canary, Success: pol.Success}, Fixer: fixerNamed(pol.Fixer),
	}, policy: pol.Name, frozen: func(tx pgx.Tx, id string, letters int64) error {
		if frozen = letters; letters == 0 {
			return errNothing
		}
		return p.charge(ctx, tx, pol, s, g, letters, &id)
	}})
	var spec *SpecError
	var syntax *SyntaxError
	switch {
	case errors.Is(err, errNothing):
		return p.rest(ctx, pol, g)
	case errors.As(err, &spec), errors.As(err, &syntax):
		return p.conclude(ctx, pol, s, "its replay cannot be planned: "+err.Error(), "", false)
	case err != nil:
		return fmt.Errorf("replay group %s: %w", g.Group, err)
	}
	p.acts.WithLabelValues(pol.Name).Add(float64(frozen))
	p.log.Info(why, "letters", frozen, "replay", id)
	return nil
}

const restGroup = `
with old as (delete from perdure.policy_groups where policy = $1 and fingerprint <> $2 and at < clock_timestamp() - interval '90 days')
insert into perdure.policy_groups (policy, fingerprint, turn_at, rest_letters, rest_last, rest_as) values ($1, $2, clock_timestamp(), $3, $4, $5)
on conflict (policy, fingerprint) do update set turn_at = excluded.turn_at, rest_letters = excluded.rest_letters, rest_last = excluded.rest_last,
  rest_as = excluded.rest_as, at = clock_timestamp()`

// rest leaves a group alone until new letters come, or for restTime.
func (p *Policies) rest(ctx context.Context, pol *schemas.Policy, g PolicyGroup) error {
	_, err := p.deps.DB.Exec(ctx, restGroup, pol.Name, g.Group, g.Letters, g.Last, digest(pol))
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
func (p *Policies) dispose(ctx context.Context, pol *schemas.Policy, s *standing, who, why string, g PolicyGroup, n int64) error {
	state := map[string]schemas.LetterState{"discard": schemas.LetterDiscarded, "hold": schemas.LetterHeld}[pol.Action]
	for n > 0 {
		slice := min(n, 1000)
		var done int64
		err := pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, disposeLetters, append(matchArgs(pol), g.Group, slice, string(state), who, "letter."+pol.Action, why)...)
			if err != nil {
				return err
			}
			done = tag.RowsAffected()
			return p.charge(ctx, tx, pol, s, g, done, nil)
		})
		if err != nil {
			return fmt.Errorf("%s group %s: %w", pol.Action, g.Group, err)
		}
		p.acts.WithLabelValues(pol.Name).Add(float64(done))
		if done < slice {
			return nil
		}
		n -= slice
	}
	return nil
}

// judge looks at what the last replay came to. waits says that it is not known
// yet: until then the policy does nothing else. A replay of which every letter was
// refused is no strike, and clears none: nothing moved.
func (p *Policies) judge(ctx context.Context, pol *schemas.Policy, s *standing) (waits bool, err error) {
	if s.judged || s.replay == nil {
		return false, nil
	}
	r, err := p.jobs.glance(ctx, *s.replay)
	if errors.Is(err, ErrNoReplay) {
		return false, p.conclude(ctx, pol, s, "", "", false)
	}
	if err != nil {
		return false, err
	}
	bad, off := "", ""
	switch {
	case r.State == Approved:
		return true, p.begin(ctx, pol, s, r.ID)
	case !r.State.Over():
		return true, p.sayWaits(ctx, pol, s, r)
	case r.Became.UnderWay > 0 && time.Since(r.ChangedAt) < p.cfg.Patience:
		return true, nil
	case r.State == Cancelled:
		off = fmt.Sprintf("a person cancelled its replay %s", r.ID)
	case r.State == Stopped:
		bad = fmt.Sprintf("its replay %s stopped itself: %s", r.ID, r.Note)
	case r.Became.DiedAgain > r.Became.Completed:
		bad = fmt.Sprintf("of its replay %s %d died again and %d completed", r.ID, r.Became.DiedAgain, r.Became.Completed)
	}
	return false, p.conclude(ctx, pol, s, bad, off, r.Replayed > 0)
}

// begin starts a replay that a person approved. One whose letters changed
// meanwhile is given up, and planned anew.
func (p *Policies) begin(ctx context.Context, pol *schemas.Policy, s *standing, id string) error {
	who := "policy:" + pol.Name
	err := p.jobs.Start(ctx, id, who)
	var changed *ChangedError
	if !errors.As(err, &changed) {
		return err
	}
	// First: a replay that is cancelled before it was judged is a person's doing.
	if err := p.conclude(ctx, pol, s, "", "", false); err != nil {
		return err
	}
	return p.jobs.Cancel(ctx, id, who, changed.Error())
}

// sayWaits says that a person holds the policy's replay up, and that nobody does any more.
func (p *Policies) sayWaits(ctx context.Context, pol *schemas.Policy, s *standing, r *Replay) error {
	switch {
	case r.Approval != "" && r.ApprovedBy == "":
		return p.say(ctx, pol, s, fmt.Sprintf("waits for approval of %s: %s", r.ID, r.Approval))
	case r.State == Paused:
		return p.say(ctx, pol, s, fmt.Sprintf("waits: its replay %s is paused", r.ID))
	case s.told != "":
		return p.say(ctx, pol, s, fmt.Sprintf("its replay %s goes on", r.ID))
	}
	return nil
}

const concludeAct = `
update perdure.policies set judged = true, strikes = $2, enabled = enabled and $3 = '',
  note = case when $3 <> '' then $3 when $4 <> '' then $4 else note end, changed_at = clock_timestamp() where policy = $1`

// conclude ends an act: bad makes it a strike, off switches the policy off.
func (p *Policies) conclude(ctx context.Context, pol *schemas.Policy, s *standing, bad, off string, moved bool) error {
	switch {
	case bad != "":
		if s.strikes++; s.strikes >= pol.Strikes {
			off = fmt.Sprintf("it made nothing better %d times in a row; the last: %s", s.strikes, bad)
		}
	case moved:
		s.strikes = 0
	}
	s.judged, s.enabled = true, s.enabled && off == ""
	err := pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, concludeAct, pol.Name, s.strikes, off, bad); err != nil || off == "" {
			return err
		}
		return note(ctx, tx, "perdure", "policy.disable", "", off, map[string]any{"policy": pol.Name})
	})
	if off != "" && err == nil {
		p.log.Error("policy switched itself off: "+off, "policy", pol.Name, "next", "perdure policy enable "+pol.Name)
	}
	return err
}

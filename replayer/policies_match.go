package replayer

// What a policy matches: the failure groups, in the order of their turns.

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

// PolicyGroup is a failure group that a policy matches.
type PolicyGroup struct {
	Group   string    `json:"group"`
	Letters int64     `json:"letters" doc:"open letters that it would act on; at most 100,000 are counted"`
	First   time.Time `json:"first_seen"`
	Last    time.Time `json:"last_seen"`
	Sample  string    `json:"sample"`
	Waits   string    `json:"waits,omitempty" doc:"what it waits for; absent = it acts"`

	told  string        // of it, by a dry run
	due   time.Duration // it waits for so long, if nothing changes; 0 = nobody knows
	again bool          // it waits for what no count of letters tells
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
      select l.error_class, l.message from (select letter from perdure.letter_states d where d.fingerprint = g.fingerprint ` + ofPolicy + ` order by died_at desc limit 1000) d
      join perdure.letters l on l.letter = d.letter) l
    where error_class like $2 and message like $3))
select m.fingerprint, c.n, first.died_at, last.died_at, first.letter,
  extract(epoch from clock_timestamp() - last.died_at)::float8, extract(epoch from clock_timestamp() - first.died_at)::float8,
  coalesce(k.told, ''), r.rests
from m
cross join lateral (select count(*) as n from (select from ` + itsLetters + ` where d.fingerprint = m.fingerprint ` + matched + ` limit $6) n) c
cross join lateral (select d.died_at, d.letter from ` + itsLetters + ` where d.fingerprint = m.fingerprint ` + matched + ` order by d.died_at, d.letter limit 1) first
cross join lateral (select d.died_at from ` + itsLetters + ` where d.fingerprint = m.fingerprint ` + matched + ` order by d.died_at desc limit 1) last
left join perdure.policy_groups k on k.policy = $7 and k.fingerprint = m.fingerprint
cross join lateral (select k.rest_as = $8 and c.n <= k.rest_letters and last.died_at <= k.rest_last as same, k.turn_at > clock_timestamp() - $9::interval as just) t
cross join lateral (select coalesce(case when $10 then k.rest_as = $8 and (t.same or t.just) else t.same and t.just end, false) as rests) r
order by r.rests, k.turn_at nulls first, first.died_at, m.fingerprint limit 1000`

const (
	// The cases keep Postgres from the guess that few of a cause's letters are of its kind, reason and class.
	ofPolicy   = `and d.state = 'open' and case when d.reason <> 'unknown' and coalesce(d.kind, '') like $1 and ($4 = '' or d.reason = $4) and d.epoch < $5 then true end`
	matched    = ofPolicy + ` and case when l.error_class like $2 and l.message like $3 then true end`
	itsLetters = `perdure.letter_states d join perdure.letters l on l.letter = d.letter`

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
func (p *Policies) matching(ctx context.Context, pol *schemas.Policy, strikes int) ([]PolicyGroup, error) {
	db, cat := p.deps.DB, p.deps.Catalog
	notify := pol.Action == "notify"
	args := append([]any{plannedEachTime}, matchArgs(pol)...)
	rows, err := db.Query(ctx, matchGroups, append(args, policyMost, pol.Name, digest(pol), restTime, notify)...)
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
		case rests && notify:
			g.Waits = "it was told of; it waits for new letters, and for an hour since"
		case rests:
			g.Waits = "none of these letters can go: its replays refused them, or its where leaves them out; it waits for new ones"
		case sinceLast < quiet.Seconds():
			g.due = quiet - time.Duration(sinceLast*float64(time.Second))
			g.Waits = fmt.Sprintf("its latest death is %.0f s ago; it must be quiet for %s", sinceLast, quiet)
		case sinceFirst < pol.Wait.Age.Seconds():
			g.due = pol.Wait.Age - time.Duration(sinceFirst*float64(time.Second))
			g.Waits = fmt.Sprintf("its oldest letter is %.0f s old; it waits until it is %s", sinceFirst, pol.Wait.Age)
		}
		return g, nil
	})
	if err != nil {
		return nil, fmt.Errorf("find groups: %w", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	why, err := ill(ctx, db, cat, pol)
	if err != nil {
		return nil, err
	}
	var unreleased map[string]string
	if pol.Wait.NewRelease {
		if unreleased, err = p.unreleased(ctx, list); err != nil {
			return nil, err
		}
	}
	for i := range list {
		if g := &list[i]; g.Waits == "" {
			g.Waits = cmp.Or(why, unreleased[g.Group])
			g.again = g.Waits != ""
		}
	}
	return list, nil
}

// like turns a pattern with * into LIKE's; "" stays.
func like(pattern string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`).Replace(pattern)
}

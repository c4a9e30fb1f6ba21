package dlq

// Failure groups: letters of one cause.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Group is all letters with one fingerprint.
type Group struct {
	Group        string         `json:"group" doc:"fingerprint"`
	Letters      int64          `json:"letters"`
	States       map[string]int `json:"states" doc:"letters by state"`
	FirstSeen    time.Time      `json:"first_seen"`
	LastSeen     time.Time      `json:"last_seen"`
	Kinds        []string       `json:"kinds"`
	Queues       []string       `json:"queues"`
	Reasons      []string       `json:"reasons"`
	Releases     []string       `json:"releases" doc:"of all its letters, or, from a time on, of those since then; by when the first letter died in each"`
	FirstRelease string         `json:"first_release,omitempty" doc:"in which the first letter died whose release is known"`
	LastRelease  string         `json:"last_release,omitempty" doc:"in which the latest letter died whose release is known"`
	Sample       Sample         `json:"sample" doc:"the latest letter"`
	LastHour     int64          `json:"last_hour" doc:"letters that died within the last hour; at most 10,000 are counted"`
	Hours        []int64        `json:"hours,omitempty" doc:"letters that died in each of the last 24 hours, the oldest first; of one group alone; at most 100,000 of a state are counted, the latest"`
	Care         Care           `json:"care"`
	Matched      int64          `json:"matched,omitempty" doc:"with where: of the letters that were looked at, those for which it is true"`
}

// Sample is the latest letter of a group.
type Sample struct {
	Letter     string `json:"letter"`
	ErrorClass string `json:"error_class,omitempty"`
	Message    string `json:"message,omitempty"`
}

// Most unfinished letters first: that is where mending pays. Letters are counted as
// they come (group_rows); of the groups that are shown the rest is read, by each
// state's end of the index letter_states_fp.
const listGroups = `
with s as materialized (
  select fingerprint, state, sum(n)::bigint as n, max(last_seen) as last_seen from perdure.group_rows
  where ` + ofCounts + ` group by 1, 2 having sum(n) > 0),
` + chosenGroups + `,
v as materialized (
  select fingerprint, coalesce(array_agg(distinct kind) filter (where kind <> ''), '{}') as kinds, array_agg(distinct queue) as queues, array_agg(distinct reason) as reasons
  from (select fingerprint, kind, queue, reason from perdure.group_rows c join p using (fingerprint) where ` + ofCounts + ` group by 1, 2, 3, 4 having sum(n) > 0) r group by 1),
w as materialized (
  select fingerprint, ` + releasesInOrder + `
  from (select fingerprint, release, min(x.first_seen) as first_seen, max(x.last_seen) as last_seen
    from perdure.group_release_rows x join p using (fingerprint) group by 1, 2 having sum(n) > 0) r group by 1)
select g.fingerprint, g.letters, g.states, first.died_at, last.died_at, v.kinds, v.queues, v.reasons, coalesce(w.releases, '{}'), coalesce(w.last_release, ''),
  last.letter, d.error_class, d.message,
  (select count(*) from (
    select from perdure.letter_states where fingerprint = g.fingerprint and state = any(g.has) and died_at > now() - interval '1 hour' ` + ofFilter + ` limit $9) h),
  ` + careOfGroup + `
from p g join v using (fingerprint) left join w using (fingerprint) cross join lateral (
  select d.died_at from unnest(g.has) u(state) cross join lateral (
    select died_at from perdure.letter_states where fingerprint = g.fingerprint and state = u.state ` + ofFilter + ` order by died_at limit 1) d
  order by 1 limit 1) first
cross join lateral (
  select d.* from unnest(g.has) u(state) cross join lateral (
    select died_at, letter from perdure.letter_states where fingerprint = g.fingerprint and state = u.state ` + ofFilter + `
    order by died_at desc, letter desc limit 1) d
  order by died_at desc, letter desc limit 1) last
join perdure.letters d on d.letter = last.letter
order by g.unfinished desc, g.last_seen desc, g.fingerprint`

// From a time on, or up to one, letters are counted one by one, those of the groups that
// were seen since: by the index of each, where it is not most of all letters.
const listGroupsSince = `
with d as materialized (
  select fingerprint, state, coalesce(kind, '') as kind, queue, reason, release, count(*) as n, min(died_at) as first_seen, max(died_at) as last_seen,
    count(*) filter (where died_at > now() - interval '1 hour') as hour
  from (select fingerprint, state from perdure.group_rows where ` + ofCounts + `
    group by 1, 2 having sum(n) > 0 and coalesce(max(last_seen) >= $10::timestamptz, true)) seen
  join perdure.letter_states using (fingerprint, state)
  where ` + ofCounts + ` and died_at >= $10::timestamptz and ($11::timestamptz is null or died_at < $11) group by 1, 2, 3, 4, 5, 6),
s as materialized (
  select fingerprint, state, sum(n)::bigint as n, min(first_seen) as first_seen, max(last_seen) as last_seen, sum(hour)::bigint as hour from d group by 1, 2),
` + chosenGroups + `,
v as materialized (
  select fingerprint, coalesce(array_agg(distinct kind) filter (where kind <> ''), '{}') as kinds, array_agg(distinct queue) as queues,
    array_agg(distinct reason) as reasons
  from d join p using (fingerprint) group by 1),
w as materialized (
  select fingerprint, ` + releasesInOrder + `
  from (select fingerprint, release, min(d.first_seen) as first_seen, max(d.last_seen) as last_seen
    from d join p using (fingerprint) where release <> '' group by 1, 2) r group by 1)
select g.fingerprint, g.letters, g.states, f.first_seen, g.last_seen, v.kinds, v.queues, v.reasons, coalesce(w.releases, '{}'), coalesce(w.last_release, ''),
  last.letter, l.error_class, l.message, least(f.hour, $9),
  ` + careOfGroup + `
from p g join v using (fingerprint) left join w using (fingerprint) join (
  select fingerprint, min(first_seen) as first_seen, sum(hour)::bigint as hour from s group by 1) f using (fingerprint)
cross join lateral (
  select letter from perdure.letter_states where fingerprint = g.fingerprint and state = any(g.has) and died_at = g.last_seen ` + ofFilter + `
  order by letter desc limit 1) last
join perdure.letters l on l.letter = last.letter
order by g.unfinished desc, g.last_seen desc, g.fingerprint`

const (
	// By when letters died, not by name: v10 comes after v9.
	releasesInOrder = `array_agg(release order by first_seen nulls first, release) as releases,
    (array_agg(release order by last_seen desc nulls last, release desc))[1] as last_release`
	chosenGroups = `
g as materialized (
  select fingerprint, sum(n)::bigint as letters, coalesce(sum(n) filter (where state in ('open', 'held')), 0) as unfinished, max(last_seen) as last_seen,
    array_agg(state) as has, jsonb_object_agg(state, n) as states
  from s group by 1),
p as materialized (
  select g.*, c, perdure.group_state(c) as care from g left join perdure.failure_groups c using (fingerprint)
  where ($7 = '' or perdure.group_state(c) = $7) and not ($8 and perdure.group_state(c) = 'muted')
  order by unfinished desc, last_seen desc, fingerprint limit $6)`
	ofCounts = `($1 = '' or kind = $1) and ($2 = '' or queue = $2) and ($3::text[] is null or fingerprint = any($3))
    and ($4 = '' or state = $4) and ($5 = '' or reason = $5)`
	ofFilter    = `and ($1 = '' or case kind when $1 then true end) and ($2 = '' or case queue when $2 then true end) and ($5 = '' or case reason when $5 then true end)` // as in pageOfGroups
	careOfGroup = `g.care, (g.c).state_at, (g.c).until, coalesce((g.c).owner, ''), coalesce((g.c).note, ''), coalesce((g.c).runbook, ''), coalesce((g.c).who, ''), (g.c).changed_at`

	// MostInLastHour is how many letters of a group's last hour are counted.
	MostInLastHour = 10_000
)

// Groups returns at most limit groups of the letters that f chooses (IDs and
// Key of f are not looked at), those with most open and held letters first.
func (s *Letters) Groups(ctx context.Context, f Filter, limit int) ([]Group, error) {
	groups, err := s.groups(ctx, &f)
	if err != nil {
		return nil, err
	}
	return s.groupsOf(ctx, f, groups, limit)
}

// groupsOf is Groups of these fingerprints; nil = all.
func (s *Letters) groupsOf(ctx context.Context, f Filter, groups []string, limit int) ([]Group, error) {
	sql, args := listGroups, []any{pgx.QueryExecModeCacheDescribe, f.Kind, f.Queue, groups, f.State, f.Reason, limit, f.Care, f.HideMuted, MostInLastHour}
	if !f.Since.IsZero() || !f.Until.IsZero() {
		sql, args = listGroupsSince, append(args, f.Since, timeOrNil(f.Until))
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (Group, error) {
		var g Group
		c := &g.Care
		err := r.Scan(&g.Group, &g.Letters, &g.States, &g.FirstSeen, &g.LastSeen,
			&g.Kinds, &g.Queues, &g.Reasons, &g.Releases, &g.LastRelease, &g.Sample.Letter, &g.Sample.ErrorClass, &g.Sample.Message, &g.LastHour,
			&c.State, &c.StateAt, &c.Until, &c.Owner, &c.Note, &c.Runbook, &c.Who, &c.ChangedAt)
		if len(g.Releases) > 0 {
			g.FirstRelease = g.Releases[0]
		}
		if c.State != "muted" {
			c.Until = nil // it was, until then
		}
		for _, state := range []string{"open", "held", "replaying", "resolved", "discarded"} {
			g.States[state] += 0 // told also where it is none
		}
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	return list, nil
}

// mostInLastDay is how many letters of a group's last day are counted, the latest of
// each state.
const mostInLastDay = 100_000

// Each state by itself: for all of them together the group's whole index is read.
const countHours = `
select h, count(*) from (
  select 23 - floor(extract(epoch from now() - d.died_at) / 3600)::int as h
  from unnest($2::text[]) u(state) cross join lateral (
    select died_at from perdure.letter_states
    where fingerprint = $1 and state = u.state and died_at > now() - interval '24 hours' and died_at <= now() order by died_at desc limit $3) d) t
group by h`

// Group returns one group, with its last day. The error is ErrNoGroup if it has no
// letters.
func (s *Letters) Group(ctx context.Context, fingerprint string) (*Group, error) {
	list, err := s.Groups(ctx, Filter{Group: fingerprint}, 1)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || fingerprint == "" {
		return nil, ErrNoGroup
	}
	g := &list[0]
	g.Hours = make([]int64, 24)
	rows, err := s.db.Query(ctx, countHours, g.Group, slices.Collect(maps.Keys(g.States)), mostInLastDay)
	if err != nil {
		return nil, fmt.Errorf("the last day of group %s: %w", fingerprint, err)
	}
	var hour int
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&hour, &n}, func() error {
		g.Hours[max(hour, 0)] += n
		return nil
	}); err != nil {
		return nil, fmt.Errorf("the last day of group %s: %w", fingerprint, err)
	}
	return g, nil
}

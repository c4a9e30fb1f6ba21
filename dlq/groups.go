package dlq

// Failure groups: letters of one cause.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Group is all letters with one fingerprint.
type Group struct {
	Group     string         `json:"group" doc:"fingerprint"`
	Letters   int64          `json:"letters"`
	States    map[string]int `json:"states" doc:"letters by state"`
	FirstSeen time.Time      `json:"first_seen"`
	LastSeen  time.Time      `json:"last_seen"`
	Kinds     []string       `json:"kinds"`
	Queues    []string       `json:"queues"`
	Reasons   []string       `json:"reasons"`
	Releases  []string       `json:"releases"`
	Sample    Sample         `json:"sample" doc:"the latest letter"`
	LastHour  int64          `json:"last_hour" doc:"letters that died within the last hour"`
	Hours     []int64        `json:"hours,omitempty" doc:"letters that died in each of the last 24 hours, the oldest first; of one group alone"`
	Care      Care           `json:"care"`
}

// Sample is the latest letter of a group.
type Sample struct {
	Letter     string `json:"letter"`
	ErrorClass string `json:"error_class,omitempty"`
	Message    string `json:"message,omitempty"`
}

// Most unfinished letters first: that is where mending pays. Every letter is
// counted, but from the index dead_letters_groups alone, which holds all columns
// that are asked for; the rest is read only of the groups that are shown.
const listGroups = `
with s as materialized (
  select fingerprint, state, count(*) as n, min(died_at) as first_seen, max(died_at) as last_seen,
    count(*) filter (where died_at > now() - interval '1 hour') as hour
  from perdure.dead_letters
  where ($1 = '' or kind = $1) and ($2 = '' or queue = $2) and ($3::text[] is null or fingerprint = any($3))
    and ($4 = '' or state = $4) and ($5 = '' or reason = $5) and ($6::timestamptz is null or died_at >= $6)
  group by fingerprint, state),
g as materialized (
  select fingerprint, sum(n)::bigint as letters, jsonb_object_agg(state, n) as states,
    min(first_seen) as first_seen, max(last_seen) as last_seen, sum(hour)::bigint as hour,
    coalesce(sum(n) filter (where state in ('open', 'held')), 0) as unfinished
  from s group by fingerprint),
p as materialized (
  select g.*, c, perdure.group_state(c) as care
  from g left join perdure.failure_groups c using (fingerprint)
  where ($8 = '' or perdure.group_state(c) = $8) and not ($9 and perdure.group_state(c) = 'muted')
  order by unfinished desc, last_seen desc, fingerprint limit $7)
select g.fingerprint, g.letters, g.states, g.first_seen, g.last_seen, v.kinds, v.queues, v.reasons, v.releases,
  l.letter, l.error_class, l.message, g.hour,
  g.care, (g.c).state_at, (g.c).until, coalesce((g.c).owner, ''), coalesce((g.c).note, ''), coalesce((g.c).runbook, ''), coalesce((g.c).who, ''), (g.c).changed_at
from p g cross join lateral (
  select coalesce(array_agg(distinct kind) filter (where kind is not null), '{}') as kinds, array_agg(distinct queue) as queues,
    array_agg(distinct reason) as reasons, coalesce(array_agg(distinct release) filter (where release <> ''), '{}') as releases
  from (
    select kind, queue, reason, release from perdure.dead_letters
    where fingerprint = g.fingerprint and ($1 = '' or kind = $1) and ($2 = '' or queue = $2)
      and ($4 = '' or state = $4) and ($5 = '' or reason = $5) and ($6::timestamptz is null or died_at >= $6)
    group by kind, queue, reason, release) d) v
cross join lateral (
  select letter, error_class, message from perdure.dead_letters
  where fingerprint = g.fingerprint and died_at = g.last_seen and ($1 = '' or kind = $1) and ($2 = '' or queue = $2)
    and ($4 = '' or state = $4) and ($5 = '' or reason = $5)
  order by letter desc limit 1) l
order by g.unfinished desc, g.last_seen desc, g.fingerprint`

// Groups returns at most limit groups of the letters that f chooses (IDs and
// Key of f are not looked at), those with most open and held letters first.
func (s *Letters) Groups(ctx context.Context, f Filter, limit int) ([]Group, error) {
	groups, err := s.groups(ctx, &f)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.Query(ctx, listGroups, pgx.QueryExecModeCacheDescribe, f.Kind, f.Queue, groups, f.State, f.Reason, timeOrNil(f.Since), limit, f.Care, f.HideMuted)
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (Group, error) {
		var g Group
		c := &g.Care
		err := r.Scan(&g.Group, &g.Letters, &g.States, &g.FirstSeen, &g.LastSeen,
			&g.Kinds, &g.Queues, &g.Reasons, &g.Releases, &g.Sample.Letter, &g.Sample.ErrorClass, &g.Sample.Message, &g.LastHour,
			&c.State, &c.StateAt, &c.Until, &c.Owner, &c.Note, &c.Runbook, &c.Who, &c.ChangedAt)
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

const countHours = `
select h, count(*) from (
  select 23 - floor(extract(epoch from now() - died_at) / 3600)::int as h from perdure.dead_letters
  where fingerprint = $1 and died_at > now() - interval '24 hours' and died_at <= now()) d
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
	rows, err := s.db.Query(ctx, countHours, g.Group)
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

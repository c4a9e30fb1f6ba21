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
}

// Sample is the latest letter of a group.
type Sample struct {
	Letter     string `json:"letter"`
	ErrorClass string `json:"error_class,omitempty"`
	Message    string `json:"message,omitempty"`
}

// Most unfinished letters first: that is where mending pays.
const listGroups = `
with g as materialized (
  select fingerprint, count(*) as letters,
    count(*) filter (where state = 'open') as open, count(*) filter (where state = 'held') as held,
    count(*) filter (where state = 'replaying') as replaying, count(*) filter (where state = 'resolved') as resolved,
    count(*) filter (where state = 'discarded') as discarded,
    min(died_at) as first_seen, max(died_at) as last_seen,
    coalesce(array_agg(distinct kind) filter (where kind is not null), '{}') as kinds,
    array_agg(distinct queue) as queues, array_agg(distinct reason) as reasons,
    coalesce(array_agg(distinct release) filter (where release <> ''), '{}') as releases,
    (array_agg(letter order by died_at desc, letter desc))[1] as sample
  from perdure.dead_letters
  where ($1 = '' or kind = $1) and ($2 = '' or queue = $2) and ($3 = '' or fingerprint = $3)
    and ($4 = '' or state = $4) and ($5 = '' or reason = $5) and ($6::timestamptz is null or died_at >= $6)
  group by fingerprint)
select g.*, d.error_class, d.message from g join perdure.dead_letters d on d.letter = g.sample
order by g.open + g.held desc, g.last_seen desc, g.fingerprint limit $7`

// Groups returns at most limit groups of the letters that f chooses (IDs and
// Key of f are not looked at), those with most open and held letters first.
func (s *Letters) Groups(ctx context.Context, f Filter, limit int) ([]Group, error) {
	rows, err := s.db.Query(ctx, listGroups, f.Kind, f.Queue, f.Group, f.State, f.Reason, timeOrNil(f.Since), limit)
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (Group, error) {
		var g Group
		var open, held, replaying, resolved, discarded int
		err := r.Scan(&g.Group, &g.Letters, &open, &held, &replaying, &resolved, &discarded, &g.FirstSeen, &g.LastSeen,
			&g.Kinds, &g.Queues, &g.Reasons, &g.Releases, &g.Sample.Letter, &g.Sample.ErrorClass, &g.Sample.Message)
		g.States = map[string]int{"open": open, "held": held, "replaying": replaying, "resolved": resolved, "discarded": discarded}
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("list failure groups: %w", err)
	}
	return list, nil
}

// Group returns one group. The error is ErrNoGroup if it has no letters.
func (s *Letters) Group(ctx context.Context, fingerprint string) (*Group, error) {
	list, err := s.Groups(ctx, Filter{Group: fingerprint}, 1)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || fingerprint == "" {
		return nil, ErrNoGroup
	}
	return &list[0], nil
}

package dlq

// Finding letters many at a time, for who reads many: ids alone, so that what is looked
// at to find some is paid once for thousands of them. Bodies are read by these, a few at
// a time.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A finder finds few at first, so that somebody who wants few waits for few, and then by
// steps as many as findMost.
const (
	findFirst = exportPage
	findMost  = 4096
	findStep  = 8
)

// A window is at least so wide; one that is wider than widestWindow is none.
const (
	leastWindow  = time.Millisecond
	widestWindow = 100 * 365 * 24 * time.Hour
)

// found is a letter's place in a list.
type found struct {
	Letter string
	DiedAt time.Time
}

// finder finds the letters that a filter chooses, latest deaths first. Between two of
// its statements no snapshot is held: one that comes to be chosen meanwhile may be left
// out, none is found twice.
//
// What is read group by group is read of each group up to as many as are wanted of all.
// So there it looks only through a window of time that holds about twice as many, as the
// letters before lay: if as many came as were wanted, they are the latest, whatever the
// window; if fewer came, they are all that the window holds, and the next one begins at
// its end. Where a window held next to nothing, some are looked for in all the rest, and
// tell how wide the next is: so no gap takes more than two statements.
type finder struct {
	letters *Letters
	f       *Filter
	groups  []string
	first   int // see findFirst
	most    int // see findMost

	before   *time.Time // what is found next stands behind these
	beforeID string
	size     int           // so many are looked for next
	window   time.Duration // that is looked through next; 0 = all that is left
	ended    bool
}

func (s *Letters) finder(f *Filter, groups []string, before *time.Time, beforeID string) *finder {
	return &finder{letters: s, f: f, groups: groups, first: findFirst, most: findMost, before: before, beforeID: beforeID, size: findFirst}
}

// next returns the letters that come next; none are left if it returns none.
func (x *finder) next(ctx context.Context) ([]found, error) {
	for !x.ended {
		since := x.since()
		list, err := x.letters.find(ctx, x.f, x.groups, since, x.before, x.beforeID, x.size)
		if err != nil {
			return nil, err
		}
		x.advance(list, since)
		if len(list) > 0 {
			return list, nil
		}
	}
	return nil, nil
}

// since is where the next window ends: what died then is in it.
func (x *finder) since() time.Time {
	if x.window == 0 || x.window > widestWindow {
		return x.f.Since
	}
	since := x.before.Add(-x.window).Truncate(time.Microsecond) // as Postgres tells times apart
	if since.Before(x.f.Since) {
		return x.f.Since
	}
	return since
}

// advance goes behind what was found from since on.
func (x *finder) advance(list []found, since time.Time) {
	n, span := len(list), x.window
	switch {
	case n == x.size:
		last := &list[n-1]
		x.before, x.beforeID = &last.DiedAt, last.Letter
		span = list[0].DiedAt.Sub(last.DiedAt)
	case since.Equal(x.f.Since):
		x.ended = true
		return
	default:
		x.before, x.beforeID = &since, "" // an id is never less
	}
	if n < x.first {
		x.size, x.window = x.first, 0
		return
	}
	x.size = min(findStep*n, x.most)
	if _, grouped := foundLetters.statement(x.f, x.groups); grouped {
		wide := float64(span) * 2 * float64(x.size) / float64(n)
		x.window = time.Duration(min(max(wide, float64(leastWindow)), 2*float64(widestWindow)))
	}
}

// find returns the latest letters behind a place that died at or after since, at most
// limit.
func (s *Letters) find(ctx context.Context, f *Filter, groups []string, since time.Time, before *time.Time, beforeID string, limit int) ([]found, error) {
	within := *f
	within.Since = since
	rows, err := s.page(ctx, &foundLetters, &within, groups, before, beforeID, limit)
	if err != nil {
		return nil, fmt.Errorf("find dead letters: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
	if err != nil {
		return nil, fmt.Errorf("find dead letters: %w", err)
	}
	return list, nil
}

// Of what a filter asks only the state and the group can have changed since a letter was
// found.
const wholeLetters = `
select e.* from unnest($1::text[]) with ordinality p(letter, n) cross join lateral (
  select ` + entryColumns + `, attempts, payload, headers from perdure.dead_letters
  where letter = p.letter and ($2 = '' or state = $2) and ($3::text[] is null or fingerprint = any($3)) offset 0) e
order by p.n`

// readFound reads letters that were found with all that they hold, in their order, but
// for those that are gone, or that f does not choose any more.
func (s *Letters) readFound(ctx context.Context, f *Filter, groups []string, list []found) ([]Entry, error) {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].Letter
	}
	rows, err := s.db.Query(ctx, wholeLetters, ids, f.State, groups)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	page, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (e Entry, err error) {
		return e, r.Scan(append(e.fields(), &e.Attempts, &e.Payload, &e.Headers)...)
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return page, nil
}

package dlq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/testkit"
)

// naive says in one plain statement what a filter chooses, in a list's order.
func (r *rig) naive(f Filter) []found {
	r.t.Helper()
	rows, err := r.db.Query(r.t.Context(), `select letter, died_at from perdure.dead_letters
where ($1 = '' or kind = $1) and ($2 = '' or queue = $2) and ($3 = '' or fingerprint = $3) and ($4 = '' or state = $4) and ($5 = '' or reason = $5)
  and ($6::timestamptz is null or died_at >= $6) and ($7::timestamptz is null or died_at < $7)
order by died_at desc, letter desc`, f.Kind, f.Queue, f.Group, f.State, f.Reason, timeOrNil(f.Since), timeOrNil(f.Until))
	if err != nil {
		r.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[found])
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

// differs says where two lists do, "" if they do not.
func differs(got, want []found) string {
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i].Letter != want[i].Letter || !got[i].DiedAt.Equal(want[i].DiedAt) {
			return fmt.Sprintf("at %d of %d, want %d: %v, want %v", i, len(got), len(want), got[min(i, len(got)):min(i+3, len(got))], want[min(i, len(want)):min(i+3, len(want))])
		}
	}
	return ""
}

// scattered are letters of which many died at one moment, and others years apart.
func scattered(rng *rand.Rand, n int) []deadRow {
	states := []string{"open", "held", "held", "replaying", "resolved", "discarded"}
	apart := []time.Duration{0, 0, 0, 0, time.Microsecond, time.Microsecond, time.Millisecond, time.Second, time.Hour, 30 * 24 * time.Hour}
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	rows := make([]deadRow, n)
	for i, id := range rng.Perm(n) {
		gap := apart[rng.IntN(len(apart))]
		if rng.IntN(n/4) == 0 {
			gap = 3 * 365 * 24 * time.Hour
		}
		at = at.Add(-gap)
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", id), kind: fmt.Sprint("k", rng.IntN(3)), queue: fmt.Sprint("q", rng.IntN(2)), reason: fmt.Sprint("r", rng.IntN(3)),
			state: states[rng.IntN(len(states))], group: fmt.Sprint("fp1:", rng.IntN(1+rng.IntN(40))), died: at}
	}
	return rows
}

// churn changes states and times of death in every way in which rows may be written, and
// adds up a part of it.
func (r *rig) churn(rng *rand.Rand) {
	r.t.Helper()
	for range 6 {
		for _, sql := range []string{
			`update perdure.letter_states set state = case state when 'held' then 'resolved' when 'open' then 'held' else 'discarded' end where hashtextextended(letter, $1) % 5 = 0`,
			`update perdure.letter_states set state = case state when 'held' then 'open' when 'open' then 'held' else state end where hashtextextended(letter, $1) % 7 = 0`,
			`update perdure.dead_letters set died_at = died_at + interval '1 hour' where hashtextextended(letter, $1) % 17 = 0`,
			`update perdure.letter_states set fingerprint = 'fp1:1' where hashtextextended(letter, $1) % 19 = 0`,
			`delete from perdure.dead_letters where hashtextextended(letter, $1) % 23 = 0`,
		} {
			if _, err := r.db.Exec(r.t.Context(), sql, rng.Int64()); err != nil {
				r.t.Fatal(err)
			}
			if _, err := r.db.Exec(r.t.Context(), `select perdure.fold_groups($1)`, 1+rng.IntN(30)); err != nil {
				r.t.Fatal(err)
			}
			if _, err := r.db.Exec(r.t.Context(), `select perdure.prune_groups()`); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// Whatever is asked, and however many are found at a time, a finder and the pages of a
// list come to each letter that a plain statement selects, once, in its order.
func TestWhatIsFoundIsWhatAPlainStatementSelects(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newDesk(t).rig
			rng := rand.New(rand.NewPCG(seed, 290))
			rows := scattered(rng, 240)
			r.deadRows(rows)
			if seed > 0 {
				r.churn(rng)
			}
			letters := NewLetters(r.db)
			filters := []Filter{{}, {Group: "fp1:0"}, {Group: "fp1:1", State: "held"}, {Kind: "k1", State: "held"}, {Reason: "r1"}, {Group: "fp1:2", Reason: "r2", Queue: "q0"}, {State: "none"}}
			for _, state := range []string{"open", "held", "held", "held", "replaying", "resolved", "discarded"} {
				filters = append(filters, Filter{State: state})
			}
			for _, f := range filters {
				for range 2 {
					f.Since, f.Until = time.Time{}, time.Time{}
					if of := r.naive(Filter{State: f.State, Group: rows[rng.IntN(len(rows))].group}); len(of) > 0 && rng.IntN(2) == 0 {
						f.Since = of[0].DiedAt // when a group was last seen
					}
					if rng.IntN(2) == 0 {
						f.Until = rows[rng.IntN(120)].died
					}
					want := r.naive(f)
					first := 1 + rng.IntN(5)
					most := first + rng.IntN(40)
					if problem := differs(foundBy(t, letters, f, first, most), want); problem != "" {
						t.Fatalf("%+v, found %d to %d at a time: %s", f, first, most, problem)
					}
					limit := 1 + rng.IntN(30)
					if problem := differs(listedBy(t, letters, f, limit), want); problem != "" {
						t.Fatalf("%+v, in pages of %d: %s", f, limit, problem)
					}
				}
			}
		})
	}
}

func foundBy(t *testing.T, s *Letters, f Filter, first, most int) (all []found) {
	t.Helper()
	groups, err := s.groups(t.Context(), &f)
	if err != nil {
		t.Fatal(err)
	}
	before, beforeID := f.until(nil, "")
	x := s.finder(&f, groups, before, beforeID)
	x.first, x.most, x.size = first, most, first
	for range 5000 {
		list, err := x.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
	}
	t.Fatalf("%+v: it never ends", f)
	return nil
}

func listedBy(t *testing.T, s *Letters, f Filter, limit int) (all []found) {
	t.Helper()
	cursor := ""
	for range 5000 {
		list, next, err := s.List(t.Context(), f, cursor, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			all = append(all, found{e.Letter, e.DiedAt})
		}
		if cursor = next; cursor == "" {
			return all
		}
	}
	t.Fatalf("%+v: its pages never end", f)
	return nil
}

// findings counts the statements of one text.
type findings struct {
	sql string
	n   atomic.Int64
}

func (c *findings) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if q.SQL == c.sql {
		c.n.Add(1)
	}
	return ctx
}

func (c *findings) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// An export of a state, for which each finding asks every group, asks them a few times:
// not for each few letters, and not for each gap in which nothing died.
func TestAnExportAsksGroupsAFewTimes(t *testing.T) {
	count := &findings{sql: foundLetters.state}
	cfg, err := pgxpool.ParseConfig(testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.Tracer = count
	db, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	r := &rig{t: t, db: db}
	const bursts, each, groups = 4, 2000, 300
	rows := make([]deadRow, bursts*each)
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for i := range rows {
		at = at.Add(-time.Millisecond)
		if i%each == 0 {
			at = at.Add(-500 * 24 * time.Hour)
		}
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "permanent", state: "held", group: fmt.Sprint("fp1:", i*7%groups), died: at}
	}
	r.deadRows(rows)
	n := 0
	if err := NewLetters(db).Each(t.Context(), Filter{State: "held"}, func(e *Entry) error {
		if want := rows[n].letter; e.Letter != want {
			return fmt.Errorf("letter %d is %s, want %s", n, e.Letter, want)
		}
		n++
		return nil
	}); err != nil || n != len(rows) {
		t.Fatalf("%d letters of %d: %v", n, len(rows), err)
	}
	// Four for a burst, two for the gap behind it.
	asked := count.n.Load()
	if asked == 0 || asked > bursts*7 {
		t.Errorf("groups were asked %d times for %d letters of %d bursts", asked, len(rows), bursts)
	}
}

// What was found is looked at again when it is read: it may not be what is exported any
// more, or be gone.
func TestAnExportShowsNoLetterThatLeftItsState(t *testing.T) {
	r := newDesk(t).rig
	rows := make([]deadRow, 200)
	for i := range rows {
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "permanent", state: "held", group: "fp1:a", died: time.Unix(1e9-int64(i), 0)}
	}
	r.deadRows(rows)
	for _, f := range []Filter{{State: "held"}, {Group: "fp1:a"}} {
		// All that is left was found with the one at which they change.
		const changedAt, left, other, gone = 2 * exportPage, "main-1-150@0", "main-1-160@0", "main-1-170@0"
		var got []string
		err := NewLetters(r.db).Each(t.Context(), f, func(e *Entry) error {
			got = append(got, e.Letter)
			if len(got) != changedAt {
				return nil
			}
			_, a := r.db.Exec(t.Context(), `update perdure.letter_states set state = 'open' where letter = $1`, left)
			_, b := r.db.Exec(t.Context(), `update perdure.letter_states set fingerprint = 'fp1:b' where letter = $1`, other)
			_, c := r.db.Exec(t.Context(), `delete from perdure.dead_letters where letter = $1`, gone)
			return errors.Join(a, b, c)
		})
		if err != nil {
			t.Fatal(err)
		}
		hidden := left
		if f.Group != "" {
			hidden = other
		}
		if slices.Contains(got, hidden) || slices.Contains(got, gone) {
			t.Errorf("%+v: it shows letters that left meanwhile", f)
		}
		if len(got) != 198 {
			t.Errorf("%+v: %d letters, want 198", f, len(got))
		}
		if _, err := r.db.Exec(t.Context(), `delete from perdure.dead_letters`); err != nil {
			t.Fatal(err)
		}
		r.deadRows(rows)
	}
}

package dlq

// Failure groups against a count made by hand, and how they are read.

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

type deadRow struct {
	letter, kind, queue, reason, release, state, group string
	died                                               time.Time
	payload                                            []byte
}

func (r *rig) deadRows(rows []deadRow) {
	r.t.Helper()
	_, err := r.db.CopyFrom(r.t.Context(), pgx.Identifier{"perdure", "dead_letters"},
		[]string{"letter", "kind", "queue", "reason", "release", "state", "fingerprint", "died_at", "message", "payload",
			"origin_topic", "origin_partition", "origin_offset", "dlq_topic", "dlq_partition", "dlq_offset"},
		pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
			d := rows[i]
			return []any{d.letter, d.kind, d.queue, d.reason, d.release, d.state, d.group, d.died, "of " + d.letter, d.payload, "t", 0, i, "d", 0, i}, nil
		}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func (f Filter) takes(d deadRow) bool {
	return (f.Kind == "" || f.Kind == d.kind) && (f.Queue == "" || f.Queue == d.queue) && (f.Group == "" || f.Group == d.group) &&
		(f.State == "" || f.State == d.state) && (f.Reason == "" || f.Reason == d.reason) && !d.died.Before(f.Since)
}

// byHand counts groups without SQL.
func byHand(rows []deadRow, f Filter) map[string]*Group {
	groups := map[string]*Group{}
	add := func(list *[]string, s string) {
		if s != "" && !slices.Contains(*list, s) {
			*list = append(*list, s)
			slices.Sort(*list)
		}
	}
	type span struct{ first, last time.Time }
	releases := map[string]map[string]span{} // of all a group's letters, but those before a time that is asked for
	for _, d := range rows {
		if d.release == "" || !f.Since.IsZero() && !f.takes(d) {
			continue
		}
		if releases[d.group] == nil {
			releases[d.group] = map[string]span{}
		}
		s, known := releases[d.group][d.release]
		if !known || d.died.Before(s.first) {
			s.first = d.died
		}
		if d.died.After(s.last) {
			s.last = d.died
		}
		releases[d.group][d.release] = s
	}
	for _, d := range rows {
		if !f.takes(d) {
			continue
		}
		g := groups[d.group]
		if g == nil {
			g = &Group{Group: d.group, States: map[string]int{"open": 0, "held": 0, "replaying": 0, "resolved": 0, "discarded": 0},
				FirstSeen: d.died, Kinds: []string{}, Releases: []string{}, Care: Care{State: "open"}}
			groups[d.group] = g
		}
		g.Letters++
		g.States[d.state]++
		add(&g.Kinds, d.kind)
		add(&g.Queues, d.queue)
		add(&g.Reasons, d.reason)
		spans := releases[d.group]
		if g.Releases = slices.Sorted(maps.Keys(spans)); g.Releases == nil {
			g.Releases = []string{}
		}
		slices.SortStableFunc(g.Releases, func(a, b string) int { return spans[a].first.Compare(spans[b].first) })
		if len(g.Releases) > 0 {
			g.FirstRelease = g.Releases[0]
			g.LastRelease = slices.MaxFunc(g.Releases, func(a, b string) int {
				return cmp.Or(spans[a].last.Compare(spans[b].last), strings.Compare(a, b))
			})
		}
		if d.died.Before(g.FirstSeen) {
			g.FirstSeen = d.died
		}
		if d.died.After(g.LastSeen) || d.died.Equal(g.LastSeen) && d.letter > g.Sample.Letter {
			g.LastSeen, g.Sample = d.died, Sample{Letter: d.letter, Message: "of " + d.letter}
		}
	}
	return groups
}

func TestGroupsAreWhatTheirLettersSay(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(7, 11))
	pick := func(what string, n int) string { return fmt.Sprintf("%s%d", what, rng.IntN(n)) }
	states := []string{"open", "open", "held", "replaying", "resolved", "discarded"}
	rows := make([]deadRow, 3000)
	for i := range rows {
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: pick("kind", 3), queue: pick("q", 2), reason: pick("reason", 3),
			release: strings.TrimPrefix(pick("r", 3), "r0"), state: states[rng.IntN(len(states))], group: pick("fp1:", 40),
			died: time.Unix(1e9+rng.Int64N(300), 0)}
	}
	r.deadRows(rows)
	letters := NewLetters(r.db)
	for _, f := range []Filter{{}, {Kind: "kind1"}, {Queue: "q1"}, {Group: "fp1:3"}, {State: "held"}, {Reason: "reason2"},
		{Since: time.Unix(1e9+200, 0)}, {Kind: "kind0", Queue: "q0", State: "open", Reason: "reason0", Since: time.Unix(1e9+50, 0)}, {Kind: "none"}} {
		want := byHand(rows, f)
		got, err := letters.Groups(t.Context(), f, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%+v: %d groups, want %d", f, len(got), len(want))
		}
		last := 1 << 30
		for _, g := range got {
			w := want[g.Group]
			g.FirstSeen, g.LastSeen = time.Unix(g.FirstSeen.Unix(), 0), time.Unix(g.LastSeen.Unix(), 0)
			if a, b := fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", *w); a != b {
				t.Fatalf("%+v:\n got %s\nwant %s", f, a, b)
			}
			n := g.States["open"] + g.States["held"]
			if n > last {
				t.Fatalf("%+v: %s with %d unfinished letters comes after one with %d", f, g.Group, n, last)
			}
			last = n
		}
		if few, err := letters.Groups(t.Context(), f, 2); err != nil || len(few) != min(2, len(want)) || len(few) > 0 && few[0].Group != got[0].Group {
			t.Fatalf("%+v: %+v %v", f, few, err)
		}
	}
}

// A rare one among many: pages come from its groups; a frequent one's from all.
func TestPagesHaveTheLettersThatAFilterTakes(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(3, 5))
	pick := func(what string, n int) string { return fmt.Sprintf("%s%d", what, rng.IntN(n)) }
	rows := make([]deadRow, 4000)
	for i := range rows {
		d := deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: pick("kind", 3), queue: pick("q", 2), reason: "permanent", state: "resolved",
			group: pick("fp1:", 600), died: time.Unix(1e9+rng.Int64N(50), 0)}
		if i%100 == 0 {
			d.reason, d.state = "expired", []string{"open", "held"}[rng.IntN(2)]
		} else if i%25 == 7 {
			d.state, d.group, d.died = "discarded", "fp1:7", time.Unix(1e9+40+rng.Int64N(2), 0) // many at once, of one group
		} else if i%25 == 9 {
			d.state, d.died = "replaying", time.Unix(1e9+20+rng.Int64N(2), 0) // and of many
		}
		rows[i] = d
	}
	r.deadRows(rows)
	letters := NewLetters(r.db)
	for _, f := range []Filter{{}, {Reason: "expired"}, {Reason: "permanent"}, {Reason: "none"}, {State: "open"}, {State: "held"}, {State: "discarded"}, {State: "resolved"},
		{State: "discarded", Since: time.Unix(1e9+25, 0)}, {State: "replaying"}, {Kind: "kind1", State: "held"}, {Queue: "q1", Reason: "expired"},
		{Kind: "kind1", Queue: "q0", State: "resolved"}, {Group: "fp1:3", State: "resolved"}, {Group: "fp1:3", Reason: "none"}, {Reason: "expired", Since: time.Unix(1e9+25, 0)}} {
		var want []string
		for _, d := range rows {
			if f.takes(d) {
				want = append(want, d.letter)
			}
		}
		for _, size := range []int{7, 5000} {
			if size == 7 && len(want) > 200 {
				continue
			}
			var got []string
			cursor, last := "", time.Unix(1e10, 0)
			for {
				list, next, err := letters.List(t.Context(), f, cursor, size)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range list {
					if got = append(got, e.Letter); e.DiedAt.After(last) {
						t.Fatalf("%+v: %s comes after an earlier death", f, e.Letter)
					}
					last = e.DiedAt
				}
				if cursor = next; cursor == "" {
					break
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%+v, pages of %d: %d letters, want %d", f, size, len(got), len(want))
			}
		}
	}
}

// A million letters are a gigabyte of payloads: counting them must not read it,
// nor must the first page of a list sort them.
func TestPagesOfManyLettersDoNotReadThemAll(t *testing.T) {
	r := newRig(t)
	rows := make([]deadRow, 20_000)
	payload := bytes.Repeat([]byte("payload "), 128)
	for i := range rows {
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "permanent", state: "open",
			group: fmt.Sprintf("fp1:%d", i%20), died: time.Unix(1e9+int64(i), 0), payload: payload}
	}
	r.deadRows(rows)
	if err := foldGroups(t.Context(), r.db); err != nil { // they were written one by one
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `vacuum analyze perdure.letters, perdure.letter_states, perdure.group_changes`); err != nil {
		t.Fatal(err)
	}
	explain := func(sql string, args ...any) string {
		t.Helper()
		lines, err := r.db.Query(t.Context(), "explain (costs off) "+sql, args...)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(lines, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(plan, "\n")
	}
	pages := regexp.MustCompile(`shared hit=(\d+)(?: read=(\d+))?`)
	for _, kind := range []string{"", "k"} {
		rows, err := r.db.Query(t.Context(), "explain (analyze, buffers) "+listGroups, kind, "", nil, "", "", 100, "", false, MostInLastHour)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		read := 0
		for _, s := range pages.FindStringSubmatch(strings.Join(plan, "\n"))[1:] {
			n, _ := strconv.Atoi(s)
			read += n
		}
		if read == 0 || read > 500 {
			t.Errorf("groups of kind %q read %d pages:\n%s", kind, read, strings.Join(plan, "\n"))
		}
	}
	if plan := explain(listLetters.all, "", "", "", "", "", nil, nil, "", nil, 101, nil); strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Sort") {
		t.Errorf("the first page of letters sorts them all:\n%s", plan)
	}
	if plan := explain(pruneLetters, "q", time.Hour, pruneChunk); !strings.Contains(plan, "letter_states_finished") || strings.Count(plan, "changed_at <") != 1 || !strings.Contains(plan, "Index Cond: ((queue = 'q'::text) AND (changed_at <") {
		t.Errorf("pruning reads letters that nobody has finished, or that are not old:\n%s", plan)
	}
	if _, err := r.db.Exec(t.Context(), `insert into perdure.events (topic, partition, "offset", task_id, epoch, attempt, run, type, at)
select 't', 0, i, 'main-1-' || i, 0, 1, 1, 'failed', now() from generate_series(1, 20000) i`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `analyze perdure.events`); err != nil {
		t.Fatal(err)
	}
	if plan := explain(pruneEvents, time.Hour, pruneChunk); !strings.Contains(plan, "Index Cond: (at <") {
		t.Errorf("pruning reads events that are not old:\n%s", plan)
	}
}

// What died on other days of a large group is not read to count its last one.
func TestTheLastDayOfALargeGroupIsReadAlone(t *testing.T) {
	r, _ := storeRig(t)
	if _, err := r.db.Exec(t.Context(), `insert into perdure.dead_letters (letter, task_id, kind, queue, state, reason, fingerprint, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, 'k', 'payments', case i % 3 when 0 then 'open' when 1 then 'resolved' else 'discarded' end, 'permanent', case when i <= 30 or i % 2 = 0 then 'fp1:a' else 'fp1:b' end, 't', 0, i, 'd', 0, i,
  now() - case when i > 30 and i % 2 = 0 then interval '2 days' else interval '90 minutes' end - i * interval '1 ms' from generate_series(1, 80000) i`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `vacuum analyze perdure.letters, perdure.letter_states`); err != nil {
		t.Fatal(err)
	}
	rows, err := r.db.Query(t.Context(), "explain (analyze, buffers, costs off) "+countHours, "fp1:a", []string{"open", "held", "replaying", "resolved", "discarded"}, mostInLastDay)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan, read := strings.Join(lines, "\n"), 0
	for _, s := range regexp.MustCompile(`shared hit=(\d+)(?: read=(\d+))?`).FindStringSubmatch(plan)[1:] {
		n, _ := strconv.Atoi(s)
		read += n
	}
	if read == 0 || read > 60 {
		t.Errorf("the last day's 30 letters of 40,000 read %d pages:\n%s", read, plan)
	}
	g, err := NewLetters(r.db).Group(t.Context(), "fp1:a")
	if err != nil || g.Hours[22] != 30 {
		t.Errorf("the hour before the last has %v, want 30: %v", g, err)
	}
}

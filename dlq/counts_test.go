package dlq

// What is counted of groups against the letters themselves.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// counted is what the counts say that the letters do not, "" if they agree.
func (r *rig) counted() string {
	r.t.Helper()
	var wrong *string
	if err := r.db.QueryRow(r.t.Context(), `
with d as (
  select fingerprint, state, coalesce(kind, '') as kind, queue, reason, count(*) as n, min(died_at) as first_seen, max(died_at) as last_seen
  from perdure.dead_letters group by 1, 2, 3, 4, 5),
e as (select fingerprint, release, count(*) as n from perdure.dead_letters where release <> '' group by 1, 2),
f as (select fingerprint, release, sum(n) as n from perdure.group_release_rows group by 1, 2 having sum(n) > 0),
both_ways as (
  select coalesce(d.fingerprint, c.fingerprint) || ' ' || coalesce(d.state, c.state) || format(': %s letters, %s counted', d.n, c.n) as what,
    d.n is distinct from c.n or d.first_seen < c.first_seen or d.last_seen > c.last_seen as wrong
  from d full join perdure.groups_now c using (fingerprint, state, kind, queue, reason)
  union all
  select coalesce(e.fingerprint, f.fingerprint) || ' of ' || coalesce(e.release, f.release) || format(': %s letters, %s counted', e.n, f.n), e.n is distinct from f.n
  from e full join f using (fingerprint, release))
select string_agg(what, '; ') from both_ways where wrong`).Scan(&wrong); err != nil {
		r.t.Fatal(err)
	}
	if wrong == nil {
		return ""
	}
	return *wrong
}

// Whatever statement changes letters, and whoever adds up meanwhile.
func TestGroupsAreCountedAsTheirLettersChange(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	folding, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	for range 2 {
		beside.Go(func() {
			for folding.Err() == nil {
				if err := foldGroups(folding, r.db); err != nil && folding.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	// Several at once, each of letters of its own.
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			pick := func(of ...string) string { return of[rng.IntN(len(of))] }
			for i := range 30 {
				var rows []deadRow
				for n := range 1 + rng.IntN(5) {
					rows = append(rows, deadRow{letter: fmt.Sprintf("main-1-%d%04d%d@0", w, i, n), kind: pick("a", "b"), queue: pick("q", "p"), reason: pick("x", "y"),
						release: pick("", "v1"), state: "open", group: pick("fp1:1", "fp1:2"), died: time.Unix(1e9+rng.Int64N(1000), 0)})
				}
				r.deadRows(rows)
				mine := fmt.Sprintf("main-1-%d%%", w)
				var err error
				switch rng.IntN(4) {
				case 0:
					_, err = r.db.Exec(ctx, `update perdure.dead_letters set state = $2, fingerprint = $3 where letter like $1 and hashtext(letter) % 3 = 0`,
						mine, pick("open", "held", "resolved"), pick("fp1:1", "fp1:2", "fp1:3"))
				case 1:
					_, err = r.db.Exec(ctx, `update perdure.dead_letters set replays = replays + 1 where letter like $1`, mine)
				case 2:
					_, err = r.db.Exec(ctx, `delete from perdure.dead_letters where letter like $1 and hashtext(letter) % 7 = 0`, mine)
				case 3:
					_, err = r.db.Exec(ctx, `begin; update perdure.dead_letters set state = 'discarded' where letter like 'main-1-`+fmt.Sprint(w)+`%'; rollback`)
				}
				if err != nil {
					t.Error(err)
				}
				if wrong := r.counted(); wrong != "" {
					t.Errorf("while letters change: %s", wrong)
				}
			}
		})
	}
	writers.Wait()
	stop()
	beside.Wait()
	fold := func() {
		t.Helper()
		testkit.Eventually(t, time.Minute, func() (bool, string) { // what was broken off may hold the lock for a moment
			if err := foldGroups(ctx, r.db); err != nil {
				t.Fatal(err)
			}
			left := r.count(`select count(*) from perdure.group_changes`)
			return left == 0, fmt.Sprintf("%d changes are not added up", left)
		})
	}
	fold()
	if wrong := r.counted(); wrong != "" {
		t.Error(wrong)
	}
	if _, err := r.db.Exec(ctx, `delete from perdure.dead_letters where fingerprint = 'fp1:2'`); err != nil {
		t.Fatal(err)
	}
	fold()
	if n := r.count(`select count(*) from perdure.group_counts where fingerprint = 'fp1:2' and n = 0`); n == 0 {
		t.Error("nothing is counted as gone")
	}
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.pruneOnce(ctx); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.group_counts where n = 0`); n != 0 {
		t.Errorf("%d counts of nothing are kept", n)
	}
	if _, err := r.db.Exec(ctx, `truncate perdure.letters, perdure.letter_states`); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.groups_now`); n != 0 {
		t.Errorf("%d counts of no letters", n)
	}
}

// No letter died after the last_seen of its counts: also where one statement takes as
// many letters out of a state as into it, and where counts that are none are removed
// while a part of the changes was added to them.
func TestCountsBoundWhenLettersDied(t *testing.T) {
	r := newDesk(t).rig
	died := func(letter, state string, at int64) {
		r.deadRows([]deadRow{{letter: letter, kind: "k", queue: "q", reason: "x", state: state, group: "fp1:a", died: time.Unix(at, 0)}})
	}
	exec := func(sql string) {
		t.Helper()
		if _, err := r.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	agree := func(when string) {
		t.Helper()
		if wrong := r.counted(); wrong != "" {
			t.Errorf("%s: %s", when, wrong)
		}
	}
	died("main-1-1@0", "held", 1e9)
	died("main-1-2@0", "open", 1e9+10)
	exec(`update perdure.letter_states set state = case state when 'held' then 'open' else 'held' end`)
	agree("after a swap")
	exec(`update perdure.letter_states set died_at = died_at + interval '1 hour'`)
	agree("after a change of when they died")
	exec(`select perdure.fold_groups(100)`)
	died("main-1-3@0", "held", 1e9)
	exec(`update perdure.letter_states set state = 'resolved' where letter = 'main-1-3@0'`)
	exec(`with d as (delete from perdure.group_changes returning *) insert into perdure.group_changes select * from d order by n`)
	exec(`select perdure.fold_groups(1)`) // that it went, not yet that it came
	exec(`select perdure.prune_groups()`)
	agree("after a part was added")
	exec(`select perdure.fold_groups(100)`)
	exec(`select perdure.prune_groups()`)
	agree("after all was added")
}

// What is too low when the migration comes, it tells: also of a database whose counts were
// pruned by the version before.
func TestBoundsThatAreTooLowAreToldByTheMigration(t *testing.T) {
	r := newDesk(t).rig
	for i, state := range []string{"held", "held", "resolved", "open"} {
		r.deadRows([]deadRow{{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "x", state: state, group: fmt.Sprint("fp1:", i), died: time.Unix(1e9+int64(i), 0)}})
	}
	for _, sql := range []string{
		`select perdure.fold_groups(100)`,
		`update perdure.group_counts set last_seen = case fingerprint when 'fp1:0' then null when 'fp1:1' then last_seen - interval '1 hour' else last_seen end`,
		`delete from perdure.migrations where version_id >= 68`,
	} {
		if _, err := r.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if r.counted() == "" {
		t.Fatal("no bound is too low before")
	}
	if err := pg.Migrate(t.Context(), r.db.Config().ConnString(), testkit.MigratedSource); err != nil {
		t.Fatal(err)
	}
	if wrong := r.counted(); wrong != "" {
		t.Error(wrong)
	}
	var told int
	if err := r.db.QueryRow(t.Context(), `select count(*) from perdure.group_changes`).Scan(&told); err != nil || told != 2 {
		t.Errorf("%d bounds were told, %v; two were too low", told, err)
	}
}

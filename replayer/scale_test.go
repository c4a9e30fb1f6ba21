package replayer

// That a plan costs what its letters cost, each for itself, also before Postgres
// has figures of it.

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
)

// Each letter of a plan that was just frozen is looked at and moved by a few rows of
// its own: a statement that reads all that are left of the plan, for each, takes hours
// for a hundred thousand.
func TestALetterOfANewPlanIsFoundWithoutTheOthers(t *testing.T) {
	r := newRig(t)
	const letters = 1500
	r.exec(`alter table perdure.replay_letters set (autovacuum_enabled = off)`) // or it may have figures in time
	r.bulk(letters)
	x := r.replayer("a", &known{})
	x.cfg.Slice = 500
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}})
	turnUntil := func(state State) {
		t.Helper()
		for range 100 {
			if r.count(`select count(*) from perdure.replays where replay = $1 and state = $2`, id, state) == 1 {
				return
			}
			if _, err := x.turn(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		t.Fatalf("it does not become %s", state)
	}
	turnUntil(Planned)
	if err := r.jobs.Start(t.Context(), id, "tester", ""); err != nil {
		t.Fatal(err)
	}
	turnUntil(Done)
	if n := r.count(`select count(*) from perdure.replay_letters l join perdure.outbox o on o.id = l.seq and o.task_id || '@' || o.epoch - 1 = l.letter where l.replay = $1`, id); n != letters {
		t.Errorf("%d letters have their row in the outbox, want %d", n, letters)
	}
	// Ids follow the plan's order.
	if n := r.count(`select count(*) from (select seq < lag(seq) over (order by n) as back from perdure.replay_letters where replay = $1) l where back`, id); n != 0 {
		t.Errorf("%d letters went before one that stands before them in the plan", n)
	}

	r.db.Close() // a session tells what it read when it ends, at the latest
	conn, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // only read from
	var read int
	testkit.Eventually(t, time.Minute, func() (bool, string) { // its end is not waited for
		err := conn.QueryRow(t.Context(), `select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'replay_letters'`).Scan(&read)
		return err == nil && read > 0, fmt.Sprint("nothing is told of what was read: ", err)
	})
	if read > 50*letters {
		t.Errorf("%d index entries of the plan were read for %d letters", read, letters)
	}
}

// Few letters are found by their own index, many by their states, and by either the same.
func TestEachWayToChooseFindsTheSame(t *testing.T) {
	r := newRig(t)
	r.bulk(12_000)
	r.exec(`update perdure.dead_letters set kind = 'rare' where task_id like 'main-1-1__'`)
	r.exec(`update perdure.dead_letters set queue = 'another' where task_id like 'main-1-_7_'`)
	r.exec(`update perdure.dead_letters set state = 'held' where task_id like 'main-1-__8'`)
	r.exec(`update perdure.dead_letters set reason = 'expired' where task_id like 'main-1-_5_'`)
	since := time.Time{}
	if err := r.db.QueryRow(t.Context(), `select died_at from perdure.letters where letter = 'main-1-150@0'`).Scan(&since); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		Selector
		want int
		few  bool
	}{
		{Selector{Kind: "idem"}, 12_000 - 100 - 8*10, false}, // of three digits ten a hundred are held
		{Selector{Kind: "rare"}, 90, true},
		{Selector{Queue: "another"}, 81, true},
		{Selector{Queue: "payments"}, 12_000 - 9*10 - 81, false},
		{Selector{Kind: "rare", Queue: "another"}, 9, true},
		{Selector{Kind: "rare", Reason: "expired"}, 9, true},
		{Selector{Kind: "rare", Since: since}, 45, true},
		{Selector{Kind: "idem", Until: since}, 99, false},
		{Selector{Kind: "none"}, 0, true},
	} {
		args := append(c.args(), nil)
		var few bool
		if err := r.db.QueryRow(t.Context(), areFew, c.Kind, c.Queue).Scan(&few); err != nil {
			t.Fatal(err)
		}
		if few != c.few {
			t.Errorf("%+v: few is %v", c.Selector, few)
		}
		var first []string
		for i, sql := range []string{chooseByState, chooseByKey, chooseFew} {
			rows, err := r.db.Query(t.Context(), sql+` order by died_at nulls last, letter`, append([]any{plannedEachTime}, args...)...)
			if err != nil {
				t.Fatal(err)
			}
			list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (letter string, err error) {
				var died time.Time
				return letter, row.Scan(&letter, &died)
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != c.want {
				t.Errorf("%+v: %d letters are found in way %d, want %d", c.Selector, len(list), i, c.want)
			}
			if i == 0 {
				first = list
			} else if !slices.Equal(list, first) {
				t.Errorf("%+v: way %d finds others than the first", c.Selector, i)
			}
		}
	}
}

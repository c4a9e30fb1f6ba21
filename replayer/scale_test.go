package replayer

// That a plan costs what its letters cost, each for itself, also before Postgres
// has figures of it.

import (
	"fmt"
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

package replayer

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// A slice moves in parts at once: each letter once, a key's in the order of their
// deaths, each part with its audit row, and the job's count is right.
func TestASliceMovesInPartsThatKeepAKeysOrder(t *testing.T) {
	r := newRig(t)
	const letters, keys = 3 * beside * leastPart, 17
	n := 0
	r.letters(1, letters, func(task *schemas.Task) { task.Key = fmt.Sprint("k", n%keys); n++ })
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Off: true}}, Start: true})
	x := r.replayer("a", &known{})
	x.cfg.Slice = 2 * beside * leastPart
	r.run(x)
	if j := r.get(id); j.State != Done || j.Replayed != letters {
		t.Fatalf("%s: %d of %d replayed", j.State, j.Replayed, letters)
	}
	if n := r.count(`select count(distinct (o.task_id, l.letter)) from perdure.replay_letters l join perdure.outbox o on o.id = l.seq and l.letter = o.task_id || '@0'`); n != letters {
		t.Errorf("%d letters know their row in the outbox, want %d", n, letters)
	}
	if n := r.count(`select count(*) from (select l.n, lag(l.n) over (partition by o.key order by o.id) as before
from perdure.replay_letters l join perdure.outbox o on o.id = l.seq) x where before >= n`); n != 0 {
		t.Errorf("%d letters overtook one of their key", n)
	}
	if n := r.count(`select count(distinct xid) from perdure.outbox`); n < 3 {
		t.Errorf("it moved in %d transactions, want several a slice", n)
	}
	if n := r.count(`select count(*) from perdure.audit a, jsonb_each_text(a.details -> 'letters') e
join perdure.outbox o on o.id = e.value::bigint and e.key = o.task_id || '@0' where a.what = 'letters.replay'`); n != letters {
		t.Errorf("%d letters are in the audit with their row, want %d", n, letters)
	}
}

// What was moving when Cancel answered does not move: here a part that waits for a
// letter that somebody else has locked.
func TestAPartThatWaitsMovesNoMoreOnceCancelHasAnswered(t *testing.T) {
	r := newRig(t)
	const letters = 2 * beside * leastPart
	n := 0
	r.letters(1, letters, func(task *schemas.Task) { task.Key = fmt.Sprint("k", n); n++ })
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Off: true}}, Start: true})
	other, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(context.Background()) //nolint:errcheck // it is over already
	if _, err := other.Exec(t.Context(), `select from perdure.letter_states where letter = 'main-1-1@0' for update`); err != nil {
		t.Fatal(err)
	}
	x := r.replayer("a", &known{})
	x.cfg.Slice = letters
	stop := r.start(x)
	moved := func() int { return r.count(`select count(*) from perdure.outbox`) }
	testkit.Eventually(t, time.Minute, func() (bool, string) { // the other part is through
		n := moved()
		return n > 0 && r.count(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1, fmt.Sprint(n, " moved")
	})
	if err := r.jobs.Cancel(t.Context(), id, "tester", ""); err != nil {
		t.Fatal(err)
	}
	then := moved()
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return r.count(`select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()`) == 0, "it still works"
	})
	stop()
	if now, j := moved(), r.get(id); now != then || int(j.Replayed) != then || then == letters {
		t.Errorf("%d letters had moved when Cancel answered, then %d; %d are counted", then, now, j.Replayed)
	}
}

package replayer

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// What moves in parts ends with Cancel, too, and neither waits for the other for ever:
// both write the job's row and the audit.
func TestNoPartMovesOnceCancelHasAnswered(t *testing.T) {
	r := newRig(t)
	const each = 2 * beside * leastPart
	cancelled := 0
	for race := range 8 {
		n := 0
		r.letters(race*each+1, (race+1)*each, func(task *schemas.Task) { task.Key = fmt.Sprint("k", n); n++ })
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Off: true}}, Start: true})
		x := r.replayer("a", &known{})
		x.cfg.Slice = each
		judged := make(chan struct{}, 100)
		x.steps = func(step string) {
			if step == "judged" {
				judged <- struct{}{}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := x.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		select {
		case <-judged:
		case <-time.After(time.Minute):
			t.Fatal("nothing is judged")
		}
		time.Sleep(time.Duration(race) * 2 * time.Millisecond) // another moment each time
		err := r.jobs.Cancel(t.Context(), id, "tester", "")
		then := r.count(`select count(*) from perdure.outbox`)
		cancel()
		wg.Wait()
		if now := r.count(`select count(*) from perdure.outbox`); err == nil && now != then {
			t.Fatalf("%d letters moved after the replay was cancelled", now-then)
		}
		if err == nil {
			cancelled++
		} else if !errors.Is(err, ErrState) {
			t.Fatal(err)
		}
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			j := r.get(id)
			return r.count(`select count(*) from perdure.replay_letters where replay = $1 and result = 'replayed'`, id) == int(j.Replayed), fmt.Sprint("counted: ", j.Replayed)
		})
		r.exec(`update perdure.dead_letters set state = 'resolved'`)
	}
	if cancelled == 0 {
		t.Error("each replay was over before it was cancelled")
	}
}

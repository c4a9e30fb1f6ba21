package replayer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
)

// A row that Postgres refuses is one letter's trouble, not the job's.
func TestLetterThatCannotBeWrittenHoldsUpNoOther(t *testing.T) {
	r := newRig(t)
	r.letters(1, 20, nil)
	r.exec(`alter table perdure.outbox add constraint no_13 check (task_id is distinct from 'main-1-13')`)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(r.replayer("a", &known{}))
	j := r.get(id)
	if j.Replayed != 19 || j.Refused != 1 || len(j.Refusals) != 1 || j.Refusals[0].Sample != "main-1-13@0" {
		t.Errorf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 1 {
		t.Errorf("%d letters are open, want 1", n)
	}
	if n := r.count(`select count(*) from perdure.audit, jsonb_object_keys(details -> 'letters') where what = 'letters.replay'`); n != 19 {
		t.Errorf("%d audit rows, want 19", n)
	}
}

// Two processes believe to hold one job. What one of them marks while the other's move is
// under way does not go: no letter leaves without its mark.
func TestALetterThatARivalMarksMeanwhileDoesNotGo(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	x := r.replayer("a", &known{at: map[string]claims.Claim{}})
	j := &job{id: id, who: "t", state: Running, spec: Spec{Selector: Selector{All: true}}}
	list, _, err := x.judged(t.Context(), j, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	rival, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer rival.Rollback(context.Background()) //nolint:errcheck // after a commit it does nothing
	if _, err := rival.Exec(t.Context(), noteLetters, id, []int64{list[1].n}, []string{"refused"}, []string{"expired"}, int64(0)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := x.finish(context.Background(), j, list)
		done <- err
	}()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return r.count(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) > 0, "the move does not wait for the rival's mark"
	})
	if err := rival.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if wrong := r.wrongs(0); len(wrong) > 0 {
		t.Errorf("%v", wrong)
	}
	if n := r.count(`select count(*) from perdure.replay_letters l join perdure.letter_states d using (letter) where l.replay = $1 and l.n = $2 and l.result = 'refused' and d.state = 'open'`, id, list[1].n); n != 1 {
		t.Error("the letter that the rival refused is not open")
	}
	r.run(x)
	if got := r.get(id); got.Replayed != 4 || got.Refused != 1 {
		t.Errorf("%+v", got)
	}
}

// The oldest death goes first, also where the ids sort otherwise: with `order:
// key` the outbox's order is the tasks'.
func TestReplayKeepsTheOrderOfDeaths(t *testing.T) {
	r := newRig(t)
	r.letters(1, 40, nil)
	r.exec(`update perdure.dead_letters set died_at = now() - replace(task_id, 'main-1-', '')::int * interval '1 minute'`)
	r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(r.replayer("a", &known{}))
	if n := r.count(`select count(*) from (select died_at, lag(died_at) over (order by o.id) as before
from perdure.outbox o join perdure.dead_letters d using (task_id)) x where before >= died_at`); n != 0 {
		t.Errorf("%d outbox rows are out of order", n)
	}
	if n := r.count(`select count(*) from perdure.replay_letters l join perdure.outbox o on o.id = l.seq where l.letter = o.task_id || '@0'`); n != 40 {
		t.Errorf("%d of 40 letters know their outbox row", n)
	}
}

// Once Cancel has answered nothing moves, whatever statement was under way.
func TestNothingMovesOnceCancelHasAnswered(t *testing.T) {
	r := newRig(t)
	const each = 60
	cancelled := 0
	for race := range 30 {
		r.letters(race*each+1, (race+1)*each, nil)
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
		before := r.count(`select count(*) from perdure.outbox`)
		x := r.replayer("a", &known{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := x.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		testkit.Eventually(t, 10*time.Second, func() (bool, string) {
			return r.count(`select count(*) from perdure.outbox`) > before, "nothing moves"
		})
		err := r.jobs.Cancel(t.Context(), id, "tester", "")
		then := r.count(`select count(*) from perdure.outbox`)
		cancel()
		wg.Wait()
		if now := r.count(`select count(*) from perdure.outbox`); err == nil && now != then {
			t.Fatalf("%d letters moved after the replay was cancelled", now-then)
		}
		switch {
		case err == nil:
			cancelled++
		case !errors.Is(err, ErrState):
			t.Fatal(err)
		}
	}
	if cancelled == 0 {
		t.Error("each replay was over before it was cancelled")
	}
}

// A job goes on where it was, and comes back to what was open again meanwhile.
func TestLetterThatWasPassedOverHasItsTurn(t *testing.T) {
	r := newRig(t)
	r.letters(1, 20, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	x := r.replayer("a", &known{})
	hide := sync.OnceFunc(func() { r.exec(`update perdure.dead_letters set epoch = 9 where letter = 'main-1-2@0'`) }) // the compare-and-set fails
	show := sync.OnceFunc(func() { r.exec(`update perdure.dead_letters set epoch = 0 where letter = 'main-1-2@0'`) })
	reads := 0
	x.steps = func(step string) {
		switch step {
		case "judged":
			hide()
		case "read":
			if reads++; reads > 1 {
				show()
			}
		}
	}
	r.run(x)
	if j := r.get(id); j.State != Done || j.Replayed != 20 {
		t.Errorf("%+v", j)
	}
}

// A letter and its task's resolution that did not see each other: the letter is open,
// and Redis has forgotten the task.
func TestATaskWithAResolutionIsNotReplayed(t *testing.T) {
	r := newRig(t)
	r.letters(1, 4, nil)
	noted := func(task, outcome string) {
		r.exec(`insert into perdure.resolutions (task_id, epoch, at, outcome) values ($1, 0, now(), $2)`, task, outcome)
	}
	noted("main-1-1", "completed")
	noted("main-1-2", "cancelled")
	x := r.replayer("a", &known{at: map[string]claims.Claim{"main-1-1": {}, "main-1-2": {}, "main-1-3": {}}})
	once := sync.OnceFunc(func() { noted("main-1-3", "completed") })
	x.steps = func(step string) {
		if step == "judged" {
			once() // between the look and the move
		}
	}
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(x)
	if j, w := r.get(id), r.words(id); j.State != Done || j.Replayed != 1 || w["completed"] != 2 || w["cancelled"] != 1 {
		t.Errorf("%s: %d went, %v: %v", j.State, j.Replayed, w, j.Refusals)
	}
	if n := r.count(`select count(*) from perdure.outbox where task_id <> 'main-1-4'`); n != 0 {
		t.Errorf("%d tasks that are over went into the outbox", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'resolved' and resolved_by = 'completed'`); n != 2 {
		t.Errorf("%d letters of completed tasks are resolved, want 2", n)
	}
}

// What was read ahead while a letter was held says nothing of it once it was released.
func TestALetterThatWasReleasedIsReadAgain(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	x := r.replayer("a", &known{})
	j := &job{id: id, state: Running}
	r.exec(`update perdure.dead_letters set state = 'held' where task_id = 'main-1-2'`)
	x.readAhead(t.Context(), j, 0, 100)
	if list := x.readBefore(j, 0, 100); list != nil {
		t.Errorf("%d letters are judged as they were", len(list))
	}
	r.exec(`update perdure.dead_letters set state = 'open'`)
	x.readAhead(t.Context(), j, 0, 100)
	if list := x.readBefore(j, 0, 100); len(list) != 3 {
		t.Errorf("%d letters were read ahead, want 3", len(list))
	}
}

// The same of one whose task ran then. What is over for good keeps no slice from being used.
func TestALetterWhoseTaskRanIsReadAgain(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	j := &job{id: id, state: Running}
	for _, tt := range []struct {
		state claims.State
		want  int
		word  string
	}{{claims.Running, 0, ""}, {claims.Waiting, 0, ""}, {claims.Done, 3, "completed"}, {claims.Dead, 3, ""}} {
		x := r.replayer("a", &known{at: map[string]claims.Claim{"main-1-2": {State: tt.state}}})
		x.readAhead(t.Context(), j, 0, 100)
		list := x.readBefore(j, 0, 100)
		if len(list) != tt.want || len(list) > 1 && list[1].why.word() != tt.word {
			t.Errorf("claim %v: %d letters are judged as they were, want %d", tt.state, len(list), tt.want)
		}
	}
}

// Replays that take turns do not read each other's slices away.
func TestASliceWaitsForItsReplaysTurn(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	x := r.replayer("a", &known{})
	j, other := &job{id: id, state: Running}, &job{id: "another", state: Running}
	x.readAhead(t.Context(), j, 0, 100)
	if list := x.readBefore(other, 0, 100); list != nil {
		t.Errorf("another replay got %d letters of it", len(list))
	}
	x.readAhead(t.Context(), other, 0, 100)
	if list := x.readBefore(j, 0, 100); len(list) != 3 {
		t.Errorf("%d letters were read ahead, want 3", len(list))
	}
}

// stuckClaims answer when they are let go, whatever their caller waits for.
type stuckClaims struct {
	known
	let chan struct{}
}

func (s *stuckClaims) Get(ctx context.Context, ids ...string) ([]claims.Claim, error) {
	<-s.let
	return s.known.Get(ctx, ids...)
}

// A Redis that does not answer what is asked ahead must not cost the job its lease.
func TestWhatIsReadAheadIsNotWaitedForForever(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.letters(1, 3, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	stuck := &stuckClaims{let: make(chan struct{})}
	x := r.replayer("a", stuck)
	j := &job{id: id, state: Running}
	x.readAhead(t.Context(), j, 0, 100)
	got := make(chan []letter)
	go func() { got <- x.readBefore(j, 0, 100) }()
	select {
	case list := <-got:
		if list != nil {
			t.Errorf("%d letters without a claim", len(list))
		}
	case <-time.After(4 * staleAhead):
		t.Error("it is still waited for")
	}
	close(stuck.let)
}

// One that a slice left out is looked at again while the pass goes on: whoever looks for
// what is left begins there.
func TestALetterThatWasLeftOutMovesBeforeTheEnd(t *testing.T) {
	r := newRig(t)
	r.letters(1, 60, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Off: true}}, Start: true})
	x := r.replayer("a", &known{})
	x.cfg.Slice, x.lookBack = 5, 10
	once := sync.OnceFunc(func() { // its row is not where it was read
		r.exec(`update perdure.letter_states set changed_at = clock_timestamp() where letter = (select letter from perdure.replay_letters where replay = $1 order by n limit 1)`, id)
	})
	x.steps = func(step string) {
		if step == "judged" && r.get(id).State == Running {
			once()
		}
	}
	r.run(x)
	if j := r.get(id); j.State != Done || j.Replayed != 60 {
		t.Fatalf("%s: %d of 60 went", j.State, j.Replayed)
	}
	var place int
	if err := r.db.QueryRow(t.Context(), `select p from (select n, row_number() over (order by seq) as p from perdure.replay_letters where replay = $1) l order by n limit 1`, id).Scan(&place); err != nil {
		t.Fatal(err)
	}
	if place == 1 || place > 30 {
		t.Errorf("it went as number %d of 60", place)
	}
}

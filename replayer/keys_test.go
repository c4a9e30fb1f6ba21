package replayer

// Unique keys that are held until their task is completed: which acts give them
// back, and what is done where the index was not told.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// hold lets tasks main-1-<from…to> hold keys of their own.
func (r *rig) hold(from, to int) {
	r.t.Helper()
	r.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires)
select 'unique', n::text, n, 1, '', 'infinity' from generate_series($1::int, $2::int) n`, from, to)
}

// held is whether a task holds its key.
func (r *rig) held(n int) bool {
	r.t.Helper()
	return r.count(`select count(*) from perdure.unique_keys where seq = $1`, n) == 1
}

func TestADiscardedTaskHoldsNoUniqueKey(t *testing.T) {
	for _, action := range []string{"discard", "hold"} {
		r := newRig(t)
		r.letters(1, 4, nil)
		// Of unknown effect: no policy discards it. Undecodable: it only claims to be task 3.
		r.exec(`update perdure.dead_letters set reason = 'unknown' where letter = 'main-1-2@0'`)
		r.exec(`update perdure.dead_letters set reason = 'undecodable' where letter = 'main-1-3@0'`)
		r.hold(1, 5)
		r.looks(r.policies(func(p *schemas.Policy) { p.Action = action }), 3)
		for n, want := range map[int]bool{1: action == "hold", 2: true, 3: true, 4: action == "hold", 5: true} {
			if r.held(n) != want {
				t.Errorf("%s: task %d holds its key: %v, want %v", action, n, !want, want)
			}
		}
	}
}

// A dead task holds its key while it is replayed. One that turns out to be completed
// does not: its letter is closed, and its key is free with it.
func TestAReplayFindsACompletedTaskAndFreesItsKey(t *testing.T) {
	r := newRig(t)
	r.letters(1, 2, func(t *schemas.Task) { t.Unique = true })
	r.hold(1, 3)
	c := &known{at: map[string]claims.Claim{"main-1-1": {State: claims.Done}}}
	id := r.plan(Plan{Spec: Spec{Selector: Selector{Kind: "idem"}}})
	r.run(r.replayer("a", c))
	if err := r.jobs.Start(t.Context(), id, "tester", ""); err != nil {
		t.Fatal(err)
	}
	r.run(r.replayer("a", c))
	if r.held(1) || !r.held(2) || !r.held(3) {
		t.Errorf("held: %v %v %v, want only the first free", r.held(1), r.held(2), r.held(3))
	}
	if n := r.count(`select count(*) from perdure.outbox where task_id = 'main-1-2' and epoch = 1 and headers ->> 'perdure_unique' = 'completed'`); n != 1 {
		t.Errorf("%d rows of the replay say that it holds a key, want 1", n)
	}
}

func (r *rig) keys(most int, c Claims) *Keys {
	r.t.Helper()
	k, err := NewKeys(KeysConfig{Every: time.Millisecond, Most: most}, KeysDeps{DB: r.db, Claims: c, Log: testkit.Logger(r.t), Registry: prometheus.NewRegistry()})
	if err != nil {
		r.t.Fatal(err)
	}
	return k
}

func TestKeysOfEndedTasksAreFoundThoughNobodyToldOfThem(t *testing.T) {
	r := newRig(t)
	r.hold(1, 1200)
	r.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) values ('idempotent', '1', 1, 1, '', now() + interval '1 hour')`)
	at := map[string]claims.Claim{}
	for n := 1; n <= 1200; n++ {
		// Every third has ended: those that run, wait, are dead or unknown hold theirs.
		state := []claims.State{claims.None, claims.Running, claims.Waiting, claims.Dead, claims.Done, claims.Cancelled}[n%6]
		at[fmt.Sprintf("main-1-%d", n)] = claims.Claim{State: state}
	}
	c := &known{at: at}
	k := r.keys(500, c)
	const left = `select count(*) from perdure.unique_keys where scope = 'unique'`
	for look, want := range []int{1200 - 166, 1200 - 333, 800, 800} { // 500 a look, on from where the last one ended
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := r.count(left); n != want {
			t.Fatalf("look %d leaves %d keys, want %d", look, n, want)
		}
	}
	if n := r.count(`select count(*) from perdure.unique_keys where scope = 'unique' and seq % 6 in (4, 5)`); n != 0 {
		t.Errorf("%d ended tasks hold their keys", n)
	}
	// From the beginning again; with Redis away nothing is given back, and it goes on
	// when Redis is there.
	c.mu.Lock()
	c.err = errors.New("away")
	for id := range at {
		at[id] = claims.Claim{State: claims.Done}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	<-time.After(50 * time.Millisecond)
	if n := r.count(left); n != 800 {
		t.Errorf("with Redis away %d keys are left", n)
	}
	c.mu.Lock()
	c.err = nil
	c.mu.Unlock()
	testkit.Eventually(t, 30*time.Second, func() (bool, string) { n := r.count(left); return n == 0, fmt.Sprint(n, " keys are left") })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := r.count(`select count(*) from perdure.unique_keys`); n != 1 {
		t.Errorf("the idempotency key is gone")
	}
}

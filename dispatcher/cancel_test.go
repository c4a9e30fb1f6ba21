package dispatcher

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

func TestCancelSaysWhatCameOfIt(t *testing.T) {
	r := newHistoryRig(t)
	cancel := func(id, want string) {
		t.Helper()
		a, err := r.History.Cancel(t.Context(), id)
		if err != nil || a.State != want || a.ID != id {
			t.Errorf("%s: %+v, %v; want %s", id, a, err, want)
		}
	}
	refused := func(id string, state schemas.State) {
		t.Helper()
		_, err := r.History.Cancel(t.Context(), id)
		var settled *settledError
		if !errors.Is(err, ErrNotCancellable) || !errors.As(err, &settled) || settled.state != state {
			t.Errorf("%s: %v, want a refusal: %s", id, err, state)
		}
		var p *api.Problem
		if !errors.As(cancelProblem(err), &p) || p.GetStatus() != http.StatusConflict {
			t.Errorf("%s: problem %+v", id, p)
		}
	}
	_, queued := r.accept(nil, 0, nil)
	cancel(queued, "cancelled")
	cancel(queued, "cancelled") // and again

	seq, waiting := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 4)
	r.set(waiting, claims.Claim{State: claims.Waiting, Attempt: 2})
	cancel(waiting, "cancelled")

	seq, running := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 5)
	r.set(running, claims.Claim{State: claims.Running, Attempt: 1, Run: 1})
	cancel(running, Cancelling)
	if c, _ := r.servers.Get(t.Context(), running); !c[0].Cancel {
		t.Error("its owner was not told")
	}

	seq, done := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 6)
	r.set(done, claims.Claim{State: claims.Done})
	refused(done, schemas.StateCompleted)

	// Redis has forgotten it, and its record was committed: completed long ago.
	seq, forgotten := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 7)
	r.committed = 8
	refused(forgotten, schemas.StateCompleted)
	if c, _ := r.servers.Get(t.Context(), forgotten); c[0].State != claims.None {
		t.Errorf("its claim became %+v", c[0])
	}

	seq, dead := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 9)
	r.set(dead, claims.Claim{State: claims.Dead})
	r.letter(dead, 0, "open", "")
	refused(dead, schemas.StateDead)

	if _, err := r.History.Cancel(t.Context(), "main-1-999999"); !errors.Is(err, ErrNeverKnown) {
		t.Errorf("a task that never was: %v", err)
	}
	r.cancels = claims.ErrLost
	_, open := r.accept(nil, 0, nil)
	_, err := r.History.Cancel(t.Context(), open)
	var p *api.Problem
	if !errors.As(cancelProblem(err), &p) || p.GetStatus() != http.StatusServiceUnavailable {
		t.Errorf("no incarnation: %v", err)
	}
}

// A cancelled task gives its unique key back before the answer; one that its worker
// decides about, or that is dead, holds it.
func TestACancelGivesAUniqueKeyBack(t *testing.T) {
	r := newHistoryRig(t)
	hold := func(seq int64, key string) {
		t.Helper()
		r.exec(`insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) values ('s', $2, $1, 1, '', 'infinity')`, seq, key)
	}
	held := func(id, want string) {
		t.Helper()
		if v, err := r.History.Get(t.Context(), id); err != nil || v.UniqueKey != want {
			t.Errorf("%s holds %q, want %q; %v", id, v.UniqueKey, want, err)
		}
	}
	later := time.Now().Add(time.Hour)
	for name, due := range map[string]*time.Time{"queued": nil, "scheduled": &later} {
		seq, id := r.accept(nil, 0, due)
		hold(seq, name)
		held(id, name)
		if a, err := r.History.Cancel(t.Context(), id); err != nil || a.State != "cancelled" {
			t.Fatal(a, err)
		}
		held(id, "")
		// The caller before may have been killed between the claim and the key.
		hold(seq, name)
		if a, err := r.History.Cancel(t.Context(), id); err != nil || a.State != "cancelled" {
			t.Fatal(a, err)
		}
		held(id, "")
	}
	seq, running := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 5)
	r.set(running, claims.Claim{State: claims.Running, Attempt: 1, Run: 1})
	hold(seq, "running")
	if a, err := r.History.Cancel(t.Context(), running); err != nil || a.State != Cancelling {
		t.Fatal(a, err)
	}
	held(running, "running")

	seq, dead := r.accept(nil, 0, nil)
	r.relay(seq, "tasks.q", 9)
	r.set(dead, claims.Claim{State: claims.Dead})
	r.letter(dead, 0, "open", "")
	hold(seq, "dead")
	if _, err := r.History.Cancel(t.Context(), dead); !errors.Is(err, ErrNotCancellable) {
		t.Fatal(err)
	}
	held(dead, "dead")
}

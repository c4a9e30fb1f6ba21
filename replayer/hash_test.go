package replayer

// A plan is held to its hash: nothing else than what was planned, and approved, starts.

import (
	"errors"
	"testing"

	"github.com/perdure/perdure/schemas"
)

func TestAPlanIsHeldToItsHash(t *testing.T) {
	r := newRig(t)
	r.letters(1, 10, nil)
	x := r.replayer("a", &known{})
	plan := func() string {
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Limit: 9, Rate: 1000,
			// jsonb keeps neither the order nor the spaces of it.
			Fixer: &Fixer{Patch: []byte(`[{"value": 1.50,  "path": "/n", "op": "replace"}]`), NoEffects: "none"}}})
		r.run2(x, id, Planned)
		return id
	}
	for _, change := range []string{
		`update perdure.replay_letters set letter = 'main-1-10@0' where replay = $1 and n = 3`,
		`update perdure.replay_letters set n = 20 where replay = $1 and n = 1`,
		`delete from perdure.replay_letters where replay = $1 and n = 5`,
		`update perdure.replays set spec = jsonb_set(spec, '{rate}', '0') where replay = $1`,
	} {
		id := plan()
		r.exec(change, id)
		if err := r.jobs.Start(t.Context(), id, "t", ""); !errors.Is(err, ErrHash) {
			t.Errorf("%s: %v", change, err)
		}
	}
	id := plan()
	if err := r.jobs.StartHash(t.Context(), id, "t", "", "another"); !errors.Is(err, ErrHash) {
		t.Errorf("another hash: %v", err)
	}
	if err := r.jobs.StartHash(t.Context(), id, "t", "", r.get(id).Hash); err != nil {
		t.Errorf("as it was planned: %v", err)
	}
}

func TestAnotherRateNeedsAnotherApproval(t *testing.T) {
	r := newRig(t)
	r.letters(1, 10, nil)
	jobs := NewJobs(r.db, &schemas.Catalog{Replays: schemas.Replays{ApproveOver: 5}}, nil)
	id, err := jobs.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}, Rate: 10, Canary: Canary{Off: true}}, Who: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	r.run2(r.replayer("a", &known{}), id, Planned)
	act := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	act(jobs.Approve(t.Context(), id, "bob", ""))
	act(jobs.SetRate(t.Context(), id, "ann", "", 10)) // the same: nothing changes
	before := r.get(id)
	act(jobs.SetRate(t.Context(), id, "ann", "", 0))
	if j := r.get(id); before.State != Approved || j.State != Planned || j.ApprovedBy != "" || j.Hash == before.Hash {
		t.Errorf("%s, then %s, approved by %q, hash changed: %v", before.State, j.State, j.ApprovedBy, j.Hash != before.Hash)
	}
	if err := jobs.Start(t.Context(), id, "ann", ""); !errors.Is(err, ErrApproval) {
		t.Errorf("started at another rate: %v", err)
	}
	act(jobs.Approve(t.Context(), id, "bob", ""))
	act(jobs.Start(t.Context(), id, "ann", ""))
	act(jobs.SetRate(t.Context(), id, "ann", "", 5)) // it moves: from now on
	if j := r.get(id); j.State != Running || j.Spec.Rate != 5 || j.ApprovedBy != "bob" {
		t.Errorf("%+v", j)
	}
}

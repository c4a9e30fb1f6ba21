package replayer

// Policies: what they do with letters that cannot go, and between groups.

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// ends runs the policy's replay, completes what it moved, and counts the outcomes.
func (r *rig) ends(p *Policies, x *Replayer) {
	r.t.Helper()
	id := r.policy(p).Replay
	r.run(x)
	if r.get(id).Replayed > 0 {
		r.outcome(1000, false, "")
	}
	testkit.Eventually(r.t, time.Minute, func() (bool, string) {
		if _, err := x.outcomes(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		b := r.get(id).Became
		return b.UnderWay == 0, fmt.Sprint(b)
	})
}

func TestLettersThatCannotGoDoNotSwitchAPolicyOff(t *testing.T) {
	r := newRig(t)
	x := r.replayer("a", &known{})
	late := func(t *schemas.Task) { t.Deadline = time.Now().Add(-time.Hour) }
	r.letters(1, 1, late)
	p := r.policies(func(p *schemas.Policy) { p.PerHour, p.Strikes = 20, 1 })
	r.looks(p, 2)
	r.ends(p, x) // all are refused
	r.looks(p, 5)
	r.letters(2, 5, nil)
	r.letters(6, 8, late)
	r.looks(p, 2)
	r.ends(p, x)
	r.looks(p, 5)
	if v := r.policy(p); !v.Enabled || v.Strikes != 0 || v.Letters != 8 || len(v.Groups) != 1 || !strings.Contains(v.Groups[0].Waits, "none of these letters can go") {
		t.Errorf("%+v", v)
	}
	if n := r.count(`select count(*) from perdure.replays`); n != 2 {
		t.Errorf("%d replays, want one for each letter alone that came", n)
	}
	if n := r.count(`select count(*) from perdure.replay_letters where letter = 'main-1-1@0'`); n != 1 {
		t.Errorf("what is refused for good was planned %d times", n)
	}
	// A person says that something has changed.
	if err := p.Switch(t.Context(), "mend", true, "ann", "the deadline is moved"); err != nil {
		t.Fatal(err)
	}
	r.looks(p, 1)
	if n := r.get(r.policy(p).Replay).Letters; n != 4 {
		t.Errorf("%d letters in the plan after it was enabled, want the 4 that are left", n)
	}
}

func TestAPolicyWithAConditionComesToRest(t *testing.T) {
	r := newRig(t)
	x := r.replayer("a", &known{})
	r.letters(1, 6, nil)
	p := r.policies(func(p *schemas.Policy) { p.Where, p.PerHour = ".payload.n > 4", 10 })
	r.looks(p, 2)
	r.ends(p, x)
	r.looks(p, 10)
	replays := r.count(`select count(*) from perdure.replays`)
	acts := r.count(`select count(*) from perdure.audit where what = 'replay.plan'`)
	if v := r.policy(p); replays != 1 || acts != 1 || v.Letters != 2 || !v.Enabled {
		t.Errorf("%d replays, %d plans in the audit, %+v; want 1, 1 and 2 letters", replays, acts, v)
	}
	// Another cause is served, and costs what was replayed of it.
	r.letters(7, 9, nil)
	r.exec(`update perdure.dead_letters set fingerprint = 'fp1:bb' where letter ~ '-[789]@'`)
	r.looks(p, 10)
	r.ends(p, x)
	r.looks(p, 10)
	if n := r.count(`select count(*) from perdure.replays`); n != 2 {
		t.Errorf("%d replays, want 2", n)
	}
	if n := r.count(`select sum(letters) from perdure.policy_minutes`); n != 5 {
		t.Errorf("%d letters charged, want 5", n)
	}
	// A condition of today is asked of what yesterday's left out.
	p.deps.Catalog.Policies["mend"].Where = ".payload.n > 3"
	r.looks(p, 3)
	if n := r.get(r.policy(p).Replay).Letters; n != 1 {
		t.Errorf("%d letters fit the new condition, want 1", n)
	}
}

// The older cause has more letters than the hour allows; the other has its turn all the same.
func TestAPolicyLetsNoGroupStarve(t *testing.T) {
	r := newRig(t)
	r.letters(1, 30, nil)
	r.exec(`update perdure.dead_letters set died_at = died_at - interval '1 day'`)
	r.letters(31, 31, nil)
	r.exec(`update perdure.dead_letters set fingerprint = 'fp1:bb' where letter = 'main-1-31@0'`)
	p := r.policies(func(p *schemas.Policy) { p.PerHour = 10 })
	r.looks(p, 2)
	r.ends(p, r.replayer("a", &known{}))
	r.exec(`update perdure.policy_minutes set minute = minute - interval '61 minutes'`)
	r.looks(p, 2)
	if n := r.count(`select count(*) from perdure.replay_letters where letter = 'main-1-31@0'`); n != 1 {
		t.Error("the second cause had no turn")
	}
}

func TestAFailedPlanCostsNoLimit(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(func(p *schemas.Policy) { p.Where = "nope(" })
	r.looks(p, 2)
	if v := r.policy(p); v.Strikes != 1 || !v.Enabled || !strings.Contains(v.Note, "cannot be planned: at byte") {
		t.Errorf("%+v", v)
	}
	r.looks(p, 10)
	if v := r.policy(p); v.Enabled || v.Letters != 0 || !strings.Contains(v.Note, "2 times in a row") {
		t.Errorf("%+v", v)
	}
	if n := r.count(`select count(*) from perdure.policy_minutes`) + r.count(`select count(*) from perdure.replays`); n != 0 {
		t.Error("a plan that failed was charged, or kept")
	}
}

func TestADryRunSaysEachGroupOnce(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	r.exec(`update perdure.dead_letters set fingerprint = 'fp1:bb' where letter = 'main-1-5@0'`)
	p := r.policies(func(p *schemas.Policy) { p.DryRun = true })
	r.looks(p, 3)
	changed := func() string {
		var at time.Time
		if err := r.db.QueryRow(t.Context(), `select max(changed_at) from perdure.policies`).Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at.String()
	}
	before := changed()
	r.looks(p, 5)
	if n := r.count(`select count(*) from perdure.policy_groups where told like 'would replay %'`); n != 2 || changed() != before {
		t.Errorf("%d groups told of; last said at %s, want nothing new after %s", n, changed(), before)
	}
}

func TestAPolicySaysWhomItWaitsFor(t *testing.T) {
	r := newRig(t)
	x := r.replayer("a", &known{})
	r.letters(1, 9, nil)
	p := r.policies(nil)
	p.jobs.approveOver = 5
	r.looks(p, 2)
	r.run(x) // it is looked at, and planned
	r.looks(p, 3)
	v := r.policy(p)
	if want := "waits for approval of " + v.Replay; !strings.HasPrefix(v.Note, want) || !v.Enabled {
		t.Fatalf("%+v, want %q", v, want)
	}
	if err := p.jobs.Approve(t.Context(), v.Replay, "ann", ""); err != nil {
		t.Fatal(err)
	}
	r.looks(p, 1)
	r.ends(p, x)
	r.looks(p, 2)
	if v := r.policy(p); v.Strikes != 0 || !v.Enabled || r.get(v.Replay).Became.Completed != 9 {
		t.Errorf("%+v", v)
	}
	// A letter that changed between plan and approval: it is planned anew.
	r.letters(11, 19, nil)
	r.looks(p, 2)
	r.run(x)
	old := r.policy(p).Replay
	if err := p.jobs.Approve(t.Context(), old, "ann", ""); err != nil {
		t.Fatal(err)
	}
	r.exec(`update perdure.dead_letters set state = 'held' where letter = 'main-1-11@0'`)
	r.looks(p, 3)
	if v := r.policy(p); !v.Enabled || v.Replay == old || r.get(old).State != Cancelled || r.get(v.Replay).Letters != 8 {
		t.Errorf("%+v, %s is %s", v, old, r.get(old).State)
	}
}

// Whoever cancels a policy's replay switches it off; whoever lets it act after that knew.
func TestAPolicyThatIsEnabledAfterItsReplayWasCancelledStaysSo(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(nil)
	r.looks(p, 2)
	cancel := func() {
		t.Helper()
		if err := p.jobs.Cancel(t.Context(), r.policy(p).Replay, "ann", "not now"); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	r.looks(p, 1)
	if v := r.policy(p); v.Enabled || !strings.Contains(v.Note, "a person cancelled") {
		t.Errorf("cancelled: %+v", v)
	}
	if err := p.Switch(t.Context(), "mend", true, "ann", "now"); err != nil {
		t.Fatal(err)
	}
	r.looks(p, 1)
	cancel()
	if err := p.Switch(t.Context(), "mend", true, "ann", "no, now"); err != nil { // before the policy has looked
		t.Fatal(err)
	}
	r.looks(p, 1)
	if v := r.policy(p); !v.Enabled || v.Note == "not now" {
		t.Errorf("enabled again: %+v", v)
	}
	if n := r.count(`select count(*) from perdure.replays where state = 'running'`); n != 1 {
		t.Errorf("%d replays run, want the third", n)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'policy.disable'`); n != 1 {
		t.Errorf("the audit says %d times that it was switched off, want once", n)
	}
}

// Postgres keeps a plan with a prepared statement after its fifth use. One that was made
// while there were no letters reads all of them for each: with 8,000 of a group a policy
// looked for minutes.
func TestNoPlanIsKeptOfHowAPolicyFindsLetters(t *testing.T) {
	r := newRig(t)
	x := r.replayer("a", &known{})
	p := r.policies(nil)
	r.looks(p, 10)
	for round := range 7 {
		r.letters(10*round+1, 10*round+3, nil)
		r.looks(p, 2)
		r.ends(p, x)
	}
	if n := r.count(`select count(*) from perdure.replays`); n < 7 {
		t.Fatalf("%d replays, want 7", n)
	}
	conns := r.db.AcquireAllIdle(t.Context())
	if len(conns) == 0 {
		t.Fatal("no connection to ask")
	}
	for _, c := range conns {
		defer c.Release()
		rows, err := c.Query(t.Context(), `select left(statement, 200) from pg_prepared_statements
where statement ~ 'letter_states' and statement ~ 'join perdure\.letters|, perdure\.letters' and generic_plans > 0`, pgx.QueryExecModeExec)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range kept {
			t.Errorf("a plan is kept of %s", sql)
		}
	}
}

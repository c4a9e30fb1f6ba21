package replayer

import (
	"testing"
	"time"
)

// What is old and over goes; what somebody may still ask for stays.
func TestOldReplaysArePruned(t *testing.T) {
	r := newRig(t)
	r.letters(1, 4, nil)
	x := r.replayer("a", &known{})
	old := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-1"}}}, Start: true})
	kept := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-2"}}}, Start: true}) // its letter is still there
	young := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-3"}}}, Start: true})
	waits := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-4"}}}})
	r.run(x)
	r.exec(`delete from perdure.dead_letters where task_id in ('main-1-1', 'main-1-3')`)
	r.exec(`update perdure.replays set changed_at = now() - interval '1 year' where replay <> $1`, young)
	x.cfg.Keep, x.cfg.KeepAudit = 24*time.Hour, time.Hour
	if err := x.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.replays where replay = $1`, old); n != 0 {
		t.Error("an old replay is still there")
	}
	if n := r.count(`select count(*) from perdure.replay_letters where replay = $1`, old); n != 0 {
		t.Error("an old replay's letters are still there")
	}
	if n := r.count(`select count(*) from perdure.replays where replay = any($1::text[])`, []string{kept, young, waits}); n != 3 {
		t.Errorf("%d of 3 replays are there", n)
	}
	// Nobody started this one: it is over, and goes as others do.
	if n := r.count(`select count(*) from perdure.replays p join perdure.audit a using (replay) where replay = $1 and state = 'cancelled' and a.what = 'replay.cancel' and a.why = 'nobody started it within 1 days'`, waits); n != 1 {
		t.Error("a plan that nobody started is not cancelled")
	}
	if n := r.count(`select count(*) from perdure.dead_letters where task_id = 'main-1-4' and state = 'open'`); n != 1 {
		t.Error("its letter is not open any more")
	}
	r.exec(`update perdure.replays set changed_at = now() - interval '1 year' where replay = $1`, waits)
	if err := x.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.replays where replay = $1`, waits); n != 0 {
		t.Error("a cancelled plan is still there")
	}
}

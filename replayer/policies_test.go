package replayer

// Policies: what they act on, within which limits, and when they stop.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// policies has one policy, changed by change.
func (r *rig) policies(change func(*schemas.Policy)) *Policies {
	r.t.Helper()
	pol := &schemas.Policy{Name: "mend", When: schemas.PolicyMatch{Kind: "id*"}, Wait: schemas.PolicyWait{Quiet: time.Millisecond}, Action: "replay",
		PerHour: 1000, MaxReplays: 2, Strikes: 2, Success: 0.9}
	if change != nil {
		change(pol)
	}
	cat := catalog()
	cat.Policies = map[string]*schemas.Policy{pol.Name: pol}
	p, err := NewPolicies(PolicyConfig{Every: time.Millisecond}, PolicyDeps{DB: r.db, Catalog: cat, JQ: jqCommand(), Log: testkit.Logger(r.t)})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// looks looks n times, after all letters have been quiet for an hour.
func (r *rig) looks(p *Policies, n int) {
	r.t.Helper()
	r.exec(`update perdure.dead_letters set died_at = died_at - interval '1 hour'`)
	for range n {
		if err := p.look(r.t.Context(), p.deps.Catalog.Policies["mend"]); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) policy(p *Policies) *PolicyView {
	r.t.Helper()
	v, err := p.Get(r.t.Context(), "mend")
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func TestPolicyReplaysAGroupThatIsQuiet(t *testing.T) {
	r := newRig(t)
	p := r.policies(func(p *schemas.Policy) { p.Wait.Quiet = 30 * time.Minute })
	r.letters(1, 5, nil)
	r.letters(6, 6, func(t *schemas.Task) { t.Kind = "once" })
	if err := p.look(t.Context(), p.deps.Catalog.Policies["mend"]); err != nil { // makes its row
		t.Fatal(err)
	}
	for range 3 {
		if err := p.look(t.Context(), p.deps.Catalog.Policies["mend"]); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`select count(*) from perdure.replays`); n != 0 {
		t.Fatal("it did not wait until the group is quiet")
	}
	if v := r.policy(p); len(v.Groups) != 1 || v.Groups[0].Letters != 5 || !strings.Contains(v.Groups[0].Waits, "must be quiet for 30m") {
		t.Errorf("%+v", v)
	}
	r.looks(p, 5)
	if n := r.count(`select count(*) from perdure.replays where who = 'policy:mend' and letters = 5`); n != 1 || r.count(`select count(*) from perdure.replays`) != 1 {
		t.Fatalf("%d replays", n)
	}
	r.run(r.replayer("a", &known{}))
	r.looks(p, 3)
	r.outcome(5, false, "")
	r.run2(r.replayer("a", &known{}), r.policy(p).Replay, Done)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		if _, err := r.replayer("a", &known{}).outcomes(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := r.get(r.policy(p).Replay).Became.Completed
		return n == 5, fmt.Sprint(n)
	})
	r.looks(p, 2)
	if v := r.policy(p); !v.Enabled || v.Strikes != 0 || v.Letters != 5 {
		t.Errorf("%+v", v)
	}
}

// The loop guard: what it replays dies again, and again; it ends by itself.
func TestPolicyThatMakesNothingBetterSwitchesItselfOff(t *testing.T) {
	r := newRig(t)
	p := r.policies(func(p *schemas.Policy) { p.MaxReplays = 100 })
	x := r.replayer("a", &known{})
	from := 1
	for round := 1; round <= 5; round++ {
		r.letters(from, from+2, nil) // dead letters never end
		from += 3
		r.looks(p, 3)
		if r.count(`select count(*) from perdure.replays where state = 'running'`) == 0 {
			break
		}
		r.run(x)
		r.outcome(100, true, "fp1:aa")
		for more := true; more; {
			var err error
			if more, err = x.outcomes(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	v := r.policy(p)
	if v.Enabled || !strings.Contains(v.Note, "made nothing better 2 times in a row") {
		t.Errorf("%+v", v)
	}
	if n := r.count(`select count(*) from perdure.replays`); n != 2 {
		t.Errorf("%d replays, want 2", n)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'policy.disable' and who = 'perdure'`); n != 1 {
		t.Errorf("%d audit rows", n)
	}
	if err := p.Switch(t.Context(), "mend", true, "ann", "the fix is out"); err != nil {
		t.Fatal(err)
	}
	r.looks(p, 1)
	if n := r.count(`select count(*) from perdure.replays`); n != 3 {
		t.Errorf("enabled again it made %d replays, want a third", n)
	}
}

func TestPolicyKeepsItsLimits(t *testing.T) {
	r := newRig(t)
	r.letters(1, 20, nil)
	r.letters(21, 25, func(t *schemas.Task) { t.Epoch = 2 }) // replayed twice already
	p := r.policies(func(p *schemas.Policy) { p.Action, p.PerHour, p.Total = "hold", 8, 12 })
	r.looks(p, 10)
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'held'`); n != 8 {
		t.Fatalf("%d letters held, want 8 in this hour", n)
	}
	r.exec(`update perdure.policy_minutes set minute = minute - interval '61 minutes'`)
	r.looks(p, 10)
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'held'`); n != 12 {
		t.Fatalf("%d letters held, want 12 in all", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'held' and epoch = 2`); n != 0 {
		t.Errorf("%d letters were replayed too often to be touched", n)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'letter.hold' and who = 'policy:mend'`); n != 12 {
		t.Errorf("%d audit rows", n)
	}
	if v := r.policy(p); !strings.Contains(v.Note, "limit") {
		t.Errorf("%+v", v)
	}
}

func TestPolicyDiscards(t *testing.T) {
	r := newRig(t)
	r.letters(1, 7, nil)
	r.exec(`update perdure.dead_letters set reason = 'unknown' where letter = 'main-1-7@0'`)
	r.looks(r.policies(func(p *schemas.Policy) { p.Action = "discard" }), 3)
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'discarded' and resolved_by = 'discard'`); n != 6 {
		t.Errorf("%d letters discarded, want all but the one of unknown effect", n)
	}
}

func TestPolicyThatIsADryRunOnlySays(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(func(p *schemas.Policy) { p.DryRun = true })
	r.looks(p, 5)
	if v := r.policy(p); v.Note != "would replay 3 letters of group fp1:aa" || v.Letters != 0 {
		t.Errorf("%+v", v)
	}
	if n := r.count(`select (select count(*) from perdure.replays) + (select count(*) from perdure.dead_letters where state <> 'open')`); n != 0 {
		t.Error("a dry run did something")
	}
}

// Many processes: one acts.
func TestRivalPoliciesActOnce(t *testing.T) {
	r := newRig(t)
	r.letters(1, 9, nil) // too few for a canary
	r.exec(`update perdure.dead_letters set died_at = died_at - interval '1 hour'`)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 6 {
		p := r.policies(nil)
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) { return r.count(`select count(*) from perdure.replays`) > 0, "no replay" })
	r.run(r.replayer("a", &known{}))
	cancel()
	wg.Wait()
	if n := r.count(`select count(*) from perdure.replays`); n != 1 {
		t.Errorf("%d replays, want 1", n)
	}
	if n := r.count(`select sum(letters) from perdure.policy_minutes`); n != 9 {
		t.Errorf("%d letters charged, want 9", n)
	}
}

// A lease that ran out guards the limits: its holder may charge nothing.
func TestPolicyWhoseLeaseRanOutDoesNothing(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(nil)
	r.looks(p, 1)
	s := standing{enabled: true, judged: true, lease: time.Now().Add(-time.Minute)}
	if err := p.act(t.Context(), p.deps.Catalog.Policies["mend"], &s, PolicyGroup{Group: "fp1:aa", Letters: 3}, 3); !errors.Is(err, errLease) {
		t.Errorf("%v", err)
	}
	if n := r.count(`select count(*) from perdure.replays`); n != 0 {
		t.Error("it made a replay")
	}
}

func TestPoliciesOverHTTP(t *testing.T) {
	r := newRig(t)
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	r.policies(nil).Routes(a)
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/policies", "", 200, `"enabled":true`},
		{"POST", "/v1/policies/mend/disable", `{"why":"no"}`, 200, `"enabled":false`},
		{"GET", "/v1/policies/mend", "", 200, `"note":"no"`},
		{"POST", "/v1/policies/mend/enable", "", 200, `"enabled":true`},
		{"GET", "/v1/policies/none", "", 404, "no-such-policy"},
		{"POST", "/v1/policies/none/enable", "", 404, "no-such-policy"},
	} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(c.method, "http://127.0.0.1"+c.path, strings.NewReader(c.body))
		if c.body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		a.ServeHTTP(w, req)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	if n := r.count(`select count(*) from perdure.audit where what like 'policy.%'`); n != 2 {
		t.Errorf("%d audit rows", n)
	}
}

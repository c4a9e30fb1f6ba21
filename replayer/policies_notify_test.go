package replayer

// Policies that tell people, and policies that wait for a dependency.

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/webhook"
	"github.com/perdure/perdure/schemas"
)

// listener is an endpoint that notes what it is told, and answers as it is set to.
type listener struct {
	mu     sync.Mutex
	status int
	ids    []string
	bodies []string
	wrong  []string
}

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := io.ReadAll(r.Body)
	key, _ := webhook.ParseSecret(secret)
	id := r.Header.Get("Webhook-Id")
	if want := webhook.Sign(key, id, r.Header.Get("Webhook-Timestamp"), b); err != nil || r.Header.Get("Webhook-Signature") != want || r.Header.Get("Idempotency-Key") != id || r.Header.Get(NotifyHeader) != "group" {
		l.wrong = append(l.wrong, fmt.Sprint(err, r.Header))
	}
	l.ids, l.bodies = append(l.ids, id), append(l.bodies, string(b))
	w.WriteHeader(l.status)
}

func (r *rig) listener(change func(*schemas.Policy)) (*listener, *Policies) {
	r.t.Helper()
	l := &listener{status: 204}
	s := httptest.NewServer(l)
	r.t.Cleanup(s.Close)
	p := r.policies(func(p *schemas.Policy) {
		p.Action, p.PerHour, p.Notify = "notify", 3, schemas.Notify{URL: s.URL + "/hook", SecretEnv: "HOOK", Timeout: 10 * time.Second}
		if change != nil {
			change(p)
		}
	})
	p.deps.Getenv = func(name string) string { return map[string]string{"HOOK": secret}[name] }
	return l, p
}

// due makes every notice due, and delivers.
func (r *rig) due(p *Policies) {
	r.t.Helper()
	r.exec(`update perdure.policy_notices set due_at = clock_timestamp()`)
	if err := p.deliver(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func TestAPolicyTellsOfAGroupOnceUntilNewLettersCome(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	l, p := r.listener(nil)
	r.looks(p, 4)
	r.due(p)
	r.due(p)
	if len(l.ids) != 1 || len(l.wrong) > 0 {
		t.Fatalf("told %v, wrongly: %v", l.ids, l.wrong)
	}
	var n notice
	if err := json.Unmarshal([]byte(l.bodies[0]), &n); err != nil || n.Type != "perdure.failure_group" || n.Data.Policy != "mend" || n.Data.Group != "fp1:aa" || n.Data.Letters != 5 ||
		n.Data.Kind != "idem" || n.Data.Next != "perdure dlq groups fp1:aa" || n.Data.Sample == "" {
		t.Errorf("%s %v", l.bodies[0], err)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'policy.notify' and who = 'policy:mend' and details ->> 'group' = 'fp1:aa'`); n != 1 {
		t.Errorf("%d rows in the audit", n)
	}
	r.letters(6, 6, nil)
	r.looks(p, 3) // within the hour: nobody is told again
	r.due(p)
	if len(l.ids) != 1 || !strings.Contains(r.policy(p).Groups[0].Waits, "it was told of") {
		t.Errorf("told %v: %+v", l.ids, r.policy(p))
	}
	r.exec(`update perdure.policy_groups set turn_at = turn_at - interval '2 hours'`)
	r.looks(p, 3)
	r.due(p)
	if len(l.ids) != 2 || l.ids[0] == l.ids[1] {
		t.Errorf("told %v, want again, of the new letter", l.ids)
	}
	r.exec(`update perdure.policy_groups set turn_at = turn_at - interval '2 hours'`)
	r.looks(p, 3)
	r.due(p)
	if len(l.ids) != 2 || r.count(`select count(*) from perdure.dead_letters where state = 'open'`) != 6 {
		t.Errorf("told %v without new letters", l.ids)
	}
	// Its limit is notices, not letters.
	for n, fp := range []string{"fp1:b1", "fp1:b2"} {
		r.letters(10+n, 10+n, nil)
		r.exec(`update perdure.dead_letters set fingerprint = $1 where letter = $2`, fp, fmt.Sprintf("main-1-%d@0", 10+n))
	}
	r.looks(p, 4)
	r.due(p)
	if v := r.policy(p); len(l.ids) != 3 || !strings.Contains(v.Note, "its limit is reached") || v.Letters != 3 {
		t.Errorf("told %v with a limit of 3: %+v", l.ids, v)
	}
}

func TestANoticeIsTriedAgainAndGivenUp(t *testing.T) {
	r := newRig(t)
	r.letters(1, 2, nil)
	l, p := r.listener(func(p *schemas.Policy) { p.Strikes, p.PerHour = 2, 10 })
	l.status = 503
	r.looks(p, 2)
	if err := p.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.policy_notices where tries = 1 and due_at between clock_timestamp() + interval '0.5 seconds' and clock_timestamp() + interval '5 seconds' and failed = 'it was answered 503'`); n != 1 {
		t.Error("the next try is not put off")
	}
	r.due(p)
	l.status = 204
	r.due(p)
	if len(l.ids) != 3 || l.ids[0] != l.ids[2] || l.bodies[0] != l.bodies[2] || len(l.wrong) > 0 {
		t.Fatalf("tries: %v %v", l.ids, l.wrong)
	}
	if v := r.policy(p); v.Strikes != 0 || v.Note != "told of group fp1:aa" {
		t.Errorf("%+v", v)
	}
	l.status = 302 // no redirect is followed
	for strike := 1; strike <= 2; strike++ {
		r.letters(10*strike, 10*strike, nil)
		r.exec(`update perdure.policy_groups set turn_at = turn_at - interval '2 hours'`)
		r.looks(p, 2)
		for range noticeTries + 3 {
			r.due(p)
		}
		if v := r.policy(p); v.Strikes != strike || v.Enabled != (strike < 2) || !strings.Contains(v.Note, "given up after 10 tries: it was answered 302") {
			t.Errorf("strike %d: %+v", strike, v)
		}
	}
	if n := len(l.ids); n != 3+2*noticeTries {
		t.Errorf("%d tries, want %d", n, 3+2*noticeTries)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'policy.disable' or what = 'policy.notice-lost'`); n != 2 {
		t.Errorf("%d rows in the audit, want one of each lost notice", n)
	}
	// 410: nobody will ever take it.
	if err := p.Switch(t.Context(), "mend", true, "ann", ""); err != nil {
		t.Fatal(err)
	}
	l.status = 410
	r.looks(p, 2)
	r.due(p)
	if v := r.policy(p); v.Strikes != 1 || len(l.ids) != 4+2*noticeTries {
		t.Errorf("%+v, %d tries", v, len(l.ids))
	}
}

// The answer came, and the process was killed before it wrote that down.
func TestANoticeWhoseAnswerWasLostIsSentAgain(t *testing.T) {
	r := newRig(t)
	r.letters(1, 2, nil)
	l, p := r.listener(nil)
	r.looks(p, 2)
	r.exec(`alter table perdure.policy_notices add check (over_at is null)`)
	if err := p.deliver(t.Context()); err == nil {
		t.Fatal("the end was written")
	}
	if err := p.deliver(t.Context()); err != nil || len(l.ids) != 1 {
		t.Fatalf("%v: told %v while its try may be under way", err, l.ids)
	}
	r.exec(`alter table perdure.policy_notices drop constraint policy_notices_over_at_check`)
	r.due(p)
	r.due(p)
	if len(l.ids) != 2 || l.ids[0] != l.ids[1] {
		t.Errorf("told %v, want the same twice", l.ids)
	}
}

// A policy that is no longer in the catalog, or tells nobody now, leaves its notices.
func TestNoticesThatNobodySendsAnyMoreGo(t *testing.T) {
	r := newRig(t)
	r.letters(1, 2, nil)
	l, p := r.listener(nil)
	r.looks(p, 2)
	p.deps.Catalog.Policies["mend"].Action = "hold"
	for _, c := range []struct {
		age  string
		left int
	}{{"29 days", 1}, {"31 days", 0}} {
		r.exec(`update perdure.policy_notices set made_at = clock_timestamp() - $1::interval`, c.age)
		r.due(p)
		if n := r.count(`select count(*) from perdure.policy_notices`); n != c.left || len(l.ids) > 0 {
			t.Errorf("after %s: %d notices, told %v; want %d, and nobody told", c.age, n, l.ids, c.left)
		}
	}
}

func TestAPolicyWaitsForADependency(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	p := r.policies(func(p *schemas.Policy) { p.Wait.Dependency, p.Wait.Healthy = "bank", 10*time.Minute })
	p.deps.Catalog.Kinds["fence"].Dependency = "bank" // not of the group's kind
	waits := func(ill, why string) {
		t.Helper()
		r.looks(p, 2)
		v := r.policy(p)
		if n := r.count(`select count(*) from perdure.replays`); n != 0 || !strings.Contains(v.Groups[0].Waits, why) || !strings.Contains(v.Groups[0].Waits, "bank must be well for 10m0s") {
			t.Errorf("%s: %d replays, %+v", ill, n, v.Groups)
		}
	}
	r.breaker("fence", "w1", false, time.Second)
	waits("open", "a breaker is open, of kind fence (bank), told by worker w1")
	r.exec(`delete from perdure.events`)
	r.breaker("fence", "w1", false, 9*time.Minute)
	waits("was open", "a breaker of its kinds was open 9m")
	r.exec(`delete from perdure.events`)
	r.breaker("idem", "w1", false, time.Second) // does not call it
	r.breaker("fence", "w1", false, 11*time.Minute)
	r.letters(8, 8, func(t *schemas.Task) { t.Kind = "fence" })
	r.exec(`update perdure.dead_letters set reason = 'exhausted', fingerprint = 'fp1:ff', state = 'discarded' where kind = 'fence'`)
	r.exec(`update perdure.dead_letters set died_at = died_at + interval '59 minutes' where kind = 'fence'`) // looks moves it back
	waits("exhausted", "a task that calls it ran out of attempts, or was left in doubt,")
	r.exec(`delete from perdure.dead_letters where kind = 'fence'`)
	r.exec(`select perdure.recount_groups()`)
	r.looks(p, 1)
	if n := r.count(`select count(*) from perdure.replays`); n != 1 {
		t.Errorf("%d replays once it is well: %+v", n, r.policy(p).Groups)
	}
}

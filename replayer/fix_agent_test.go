package replayer

// A repair agent: what it is asked, and what becomes of its answers.

import (
	"encoding/json"
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

const agentSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"

// asking is a replayer whose catalog has the agent at url, and the Jobs that plan for it.
func (r *rig) asking(url string, timeout time.Duration) *Replayer {
	x := r.fixing("a", &known{})
	x.deps.Catalog.Fixers = map[string]*schemas.Fixer{"mender": {Name: "mender", URL: url, SecretEnv: "MENDER_SECRET", Timeout: timeout}}
	x.deps.Getenv = func(name string) string { return map[string]string{"MENDER_SECRET": agentSecret}[name] }
	r.jobs = NewJobs(r.db, x.deps.Catalog, nil)
	return x
}

func TestARepairAgentIsAskedAndHeldToTheRules(t *testing.T) {
	answers := map[string]string{ // by letter
		"main-1-1@0": `{"payload": {"amount": 1.50}}`,
		"main-1-2@0": `{"patch": [{"op": "replace", "path": "/amount", "value": 2}]}`,
		"main-1-3@0": `{"payload_base64": "eyJhbW91bnQiOiAzfQ=="}`,
		"main-1-4@0": `{"decision": "hold", "reason": "ask ann"}`,
		"main-1-5@0": `{"decision": "discard", "reason": "a test order"}`,
		"main-1-6@0": ``,
		"main-1-7@0": `{"payload": {"amount": "no"}}`,
		"main-1-8@0": `{"payload": {"amount": 1}, "decision": "replay"}`,
		"main-1-9@0": `{"pay": 1}`, "main-1-10@0": `{"decision": "burn", "reason": "x"}`,
		"main-1-11@0": `{"patch": [{"op": "remove", "path": "/nothing"}]}`,
		"main-1-12@0": `redirect`, "main-1-13@0": strings.Repeat("x", maxAgentAnswer+1), "main-1-14@0": `busy once`,
		"main-1-15@0": `{"decision": "replay"}`,
	}
	secret, err := webhook.ParseSecret(agentSecret)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := map[string][]string{} // letter → idempotency keys
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { mu.Lock(); elsewhere++; mu.Unlock() }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		id := q.Header.Get("Webhook-Id")
		if want := webhook.Sign(secret, id, q.Header.Get("Webhook-Timestamp"), body); q.Header.Get("Webhook-Signature") != want || q.Header.Get(FixHeader) != "ask" || q.Header.Get("Perdure-Timeout") == "" {
			t.Errorf("headers: %v", q.Header)
		}
		var l struct {
			Letter, Kind, Reason, Group string
			Attempts                    []any
			Payload                     map[string]any
		}
		if err := json.Unmarshal(body, &l); err != nil || l.Kind != "idem" || l.Reason != "schema" || l.Group != "fp1:aa" || l.Attempts == nil || l.Payload["amount"] == nil {
			t.Errorf("asked: %v %s", err, body)
		}
		mu.Lock()
		asked[l.Letter] = append(asked[l.Letter], q.Header.Get("Idempotency-Key"))
		tries := len(asked[l.Letter])
		mu.Unlock()
		switch a := answers[l.Letter]; {
		case a == "":
			w.WriteHeader(http.StatusNoContent)
		case a == "redirect":
			http.Redirect(w, q, other.URL, http.StatusTemporaryRedirect)
		case a == "busy once" && tries == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case a == "busy once":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"payload": {"amount": 14}}`)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, a)
		}
	}))
	defer srv.Close()

	r := newRig(t)
	r.broken(1, 15)
	r.exec(`update perdure.dead_letters set payload = '{"amount": 15}' where letter = 'main-1-15@0'`)
	x := r.asking(srv.URL, time.Minute)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{Name: "mender"}}})
	r.run(x)
	mu.Lock()
	about := len(asked)
	clear(asked)
	mu.Unlock()
	if j := r.get(id); j.State != Planned || j.Refused != 0 || about != Samples {
		t.Errorf("the plan: %+v; %d letters were asked about", j, about)
	}
	if f, err := r.jobs.Fixes(t.Context(), id); err != nil || len(f) != 3 || r.count(`select count(*) from perdure.dead_letters where state <> 'open'`) != 0 {
		t.Errorf("the plan shows %+v, %v", f, err)
	}
	if err := r.jobs.Start(t.Context(), id, "tester", ""); err != nil {
		t.Fatal(err)
	}
	r.run(x)
	if j, w := r.get(id), r.words(id); j.Replayed != 5 || w["held"] != 2 || w["discarded"] != 1 || w["unfixed"] != 1 || w["schema"] != 1 || w["fixer"] != 5 {
		t.Errorf("%d went, %v: %v", j.Replayed, w, j.Refusals)
	}
	if n := r.count(`select count(*) from perdure.outbox where (task_id, convert_from(payload, 'utf8')::jsonb ->> 'amount') in
  (('main-1-1', '1.50'), ('main-1-2', '2'), ('main-1-3', '3'), ('main-1-14', '14'), ('main-1-15', '15')) and (headers ? 'perdure_repair') = (task_id <> 'main-1-15')`); n != 5 {
		t.Errorf("%d of 5 rows are as the agent said", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where (letter, state) in (('main-1-4@0', 'held'), ('main-1-5@0', 'discarded'), ('main-1-13@0', 'held'))`); n != 3 {
		t.Errorf("%d of 3 letters are held or discarded", n)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'letter.discard' and why = 'its fixer says: a test order' and replay = $1`, id); n != 1 {
		t.Errorf("%d audit rows of the discard", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if keys := asked["main-1-14@0"]; len(keys) != 2 || keys[0] != keys[1] || keys[0] != id+"-main-1-14@0" || elsewhere != 0 {
		t.Errorf("the second try had the keys %v; %d requests came elsewhere", keys, elsewhere)
	}
}

// An agent that hangs, or is away, ends its replay after a few letters; the held
// ones are those at which it hung.
func TestARepairAgentThatDoesNotAnswer(t *testing.T) {
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { _, _ = io.ReadAll(q.Body); <-q.Context().Done() }))
	defer hang.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct {
		url, note string
		held      int
	}{
		"hangs": {hang.URL, "fixer: it was stopped at a limit for 5 letters in a row; the last: the agent took more than", 5},
		"away":  {gone.URL, "fixer: it gave no answer for 5 letters in a row; the last: the agent cannot be reached", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.broken(1, 20)
			timeout := time.Minute
			if c.held > 0 {
				timeout = 100 * time.Millisecond
			}
			x := r.asking(c.url, timeout)
			id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{Name: "mender"}}, Start: true})
			r.run(x)
			if j := r.get(id); j.State != Stopped || !strings.HasPrefix(j.Note, c.note) || j.Refused != 5 || j.Replayed != 0 {
				t.Errorf("%+v", j)
			}
			if n := r.count(`select count(*) from perdure.dead_letters where state = 'held'`); n != c.held {
				t.Errorf("%d letters are held, want %d", n, c.held)
			}
		})
	}
}

// What was planned is what runs: another catalog's fixer of the same name is none.
func TestANamedFixerIsPinned(t *testing.T) {
	r := newRig(t)
	r.broken(1, 2)
	x := r.asking("http://127.0.0.1:1/fix", time.Second)
	x.deps.Catalog.Fixers["numbers"] = &schemas.Fixer{Name: "numbers", JQ: `.amount |= tonumber`}
	spec := Spec{Selector: Selector{All: true}, Fixer: &Fixer{Name: "numbers", Pin: "mine"}}
	id := r.plan(Plan{Spec: spec, Start: true})
	x.deps.Catalog.Fixers["numbers"] = &schemas.Fixer{Name: "numbers", JQ: `.amount = 0`}
	r.run(x)
	if j := r.get(id); j.State != Stopped || !strings.Contains(j.Note, "numbers is another in this replayer's catalog") || j.Replayed != 0 {
		t.Errorf("%+v", j)
	}
	id = r.plan(Plan{Spec: spec, Start: true}) // the same catalog: Jobs and Replayer share it here
	r.run(x)
	if j := r.get(id); j.Replayed != 2 || j.Spec.Fixer.Pin == "mine" {
		t.Errorf("%+v", j)
	}
	if _, err := r.jobs.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{Name: "nobody"}}, Who: "t"}); err == nil || !strings.Contains(err.Error(), "#/fixer/name is not among") {
		t.Errorf("a fixer that the catalog lacks: %v", err)
	}
}

// A policy's fixer repairs what never ran, and no more: a policy decides nothing
// about effects.
func TestAPolicyRepairs(t *testing.T) {
	r := newRig(t)
	r.broken(1, 4)
	r.exec(`update perdure.dead_letters set run = 3 where letter = 'main-1-4@0'`)
	x := r.asking("http://127.0.0.1:1/fix", time.Second)
	x.deps.Catalog.Fixers["numbers"] = &schemas.Fixer{Name: "numbers", JQ: `.amount |= tonumber`}
	p := r.policies(func(p *schemas.Policy) { p.Fixer = "numbers" })
	p.jobs = r.jobs
	r.looks(p, 2)
	r.run(x)
	id := r.policy(p).Replay
	if j := r.get(id); j.Replayed != 3 || r.words(id)["effects"] != 1 || j.Who != "policy:mend" {
		t.Errorf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.outbox where headers ->> 'perdure_repair' = '1'`); n != 3 {
		t.Errorf("%d of 3 rows are repaired", n)
	}
}

// An agent that answers after Cancel or Pause decides nothing any more.
func TestAnAnswerAfterCancelOrPauseDecidesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		act    func(r *rig, id string) error
		after  State
	}{
		"discard after cancel": {"discard", func(r *rig, id string) error { return r.jobs.Cancel(t.Context(), id, "t", "") }, Cancelled},
		"discard after pause":  {"discard", func(r *rig, id string) error { return r.jobs.Pause(t.Context(), id, "t", "") }, Paused},
		"hold after cancel":    {"hold", func(r *rig, id string) error { return r.jobs.Cancel(t.Context(), id, "t", "") }, Cancelled},
	} {
		t.Run(name, func(t *testing.T) {
			asked, answer := make(chan struct{}, 8), make(chan struct{})
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				_, _ = io.ReadAll(q.Body)
				asked <- struct{}{}
				<-answer
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"decision": "`+c.answer+`", "reason": "late"}`)
			}))
			defer srv.Close()
			r := newRig(t)
			r.broken(1, 1)
			x := r.asking(srv.URL, time.Minute)
			id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{Name: "mender"}}, Start: true})
			done := make(chan error, 1)
			go func() { _, err := x.turn(t.Context()); done <- err }()
			<-asked
			if err := c.act(r, id); err != nil {
				t.Fatal(err)
			}
			close(answer)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 1 || r.get(id).State != c.after {
				t.Errorf("the letter is not open any more, or the replay is %s", r.get(id).State)
			}
			if n := r.count(`select count(*) from perdure.audit where what in ('letter.discard', 'letters.hold')`); n != 0 {
				t.Errorf("%d decisions after the answer", n)
			}
		})
	}
}

package replayer

// Letters in doubt: the hook first, then a person with a reason.

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/reconcile"
	"github.com/perdure/perdure/schemas"
)

// hook answers by task; what it has no answer for is a 503.
type hook struct {
	mu      sync.Mutex
	answers map[string]string
	asked   map[string]int
	*httptest.Server
}

func newHook(t *testing.T, answers map[string]string) *hook {
	h := &hook{answers: answers, asked: map[string]int{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		id := q.Header.Get("Ce-Id")
		body, _ := io.ReadAll(q.Body)
		if want := `{"n":` + id[strings.LastIndex(id, "-")+1:] + `}`; string(body) != want || q.Header.Get(reconcile.Header) != "ask" || q.Header.Get("Perdure-Attempt") != "3" ||
			strings.TrimLeft(q.Header.Get("Perdure-Fence"), "0") != "9" {
			t.Errorf("asked about %s: %s, %v", id, body, q.Header)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.asked[id]++
		if h.answers[id] == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"verdict": %q}`, h.answers[id])
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) total() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, times := range h.asked {
		n += times
	}
	return n
}

// doubted makes letters of kind once, which died for reason.
func (r *rig) doubted(from, to int, reason string) {
	r.letters(from, to, func(t *schemas.Task) { t.Kind, t.Queue = "once", "payments" })
	r.exec(`update perdure.dead_letters set reason = $3, run = 9, attempts = '[{"n":3,"run":9}]'
where replace(task_id, 'main-1-', '')::int between $1 and $2`, from, to, reason)
}

func (r *rig) hooked(k *known, url string) *Replayer {
	x := r.replayer("a", k)
	if url != "" {
		x.deps.Catalog.Kinds["once"].Reconcile = &schemas.HTTPHook{URL: url}
	}
	x.deps.Catalog.Kinds["once"].Timeout = time.Minute
	return x
}

func ids(from, to int) (list []string) {
	for n := from; n <= to; n++ {
		list = append(list, fmt.Sprintf("main-1-%d@0", n))
	}
	return list
}

func TestAnUnknownLetterIsReconciledFirst(t *testing.T) {
	r := newRig(t)
	r.doubted(1, 4, "unknown")
	r.doubted(5, 7, "permanent") // Redis has forgotten these: nothing proves that their effect did not happen
	h := newHook(t, map[string]string{
		"main-1-1": "happened", "main-1-2": "did_not_happen", "main-1-3": "cannot_tell",
		"main-1-5": "happened", "main-1-6": "did_not_happen", "main-1-7": "cannot_tell"})
	x := r.hooked(&known{at: map[string]claims.Claim{"main-1-5": {}, "main-1-6": {}, "main-1-7": {}}}, h.URL)
	plan := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}})
	r.run(x)
	if n := h.total(); n != 0 || r.get(plan).Refused != 0 {
		t.Errorf("the plan asked %d times, and refuses %d: its run asks", n, r.get(plan).Refused)
	}
	if err := r.jobs.Start(t.Context(), plan, "t", ""); err != nil {
		t.Fatal(err)
	}
	r.run(x)
	j, w := r.get(plan), r.words(plan)
	if j.State != Done || j.Replayed != 2 || w["completed"] != 2 || w["unknown"] != 2 || w["unproven"] != 1 {
		t.Errorf("%s: %d went, %v: %v", j.State, j.Replayed, w, j.Refusals)
	}
	if n := r.count(`select count(*) from perdure.outbox where task_id in ('main-1-2', 'main-1-6')`); n != 2 {
		t.Errorf("%d of the two that did not happen went", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters d join perdure.audit a using (letter) where task_id in ('main-1-1', 'main-1-5')
and state = 'resolved' and resolved_by = 'completed' and a.what = 'letter.resolve' and a.why = 'its effect happened, says its reconcile hook'`); n != 2 {
		t.Errorf("%d of the two that happened are resolved, with why in the audit", n)
	}
	// What the hook cannot tell, or did not answer, is a person's, by id and with a reason.
	for why, want := range map[string]int64{"": 0, "  ": 0, "the bank shows no transfer": 3} {
		id := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-3@0", "main-1-4@0", "main-1-7@0"}}}, Start: true, Why: why})
		r.run(x)
		if j := r.get(id); j.Replayed != want || j.Refused != 3-want {
			t.Errorf("why %q: %d went, want %d: %v", why, j.Replayed, want, j.Refusals)
		}
		if want > 0 && r.count(`select count(*) from perdure.audit, jsonb_object_keys(details -> 'letters') where what = 'letters.replay' and replay = $1 and why = $2`, id, why) != 3 {
			t.Error("the reason is not in the audit")
		}
	}
}

// Without a hook nothing but a person with a reason lets them go.
func TestALetterInDoubtNeedsAPersonWithAReason(t *testing.T) {
	r := newRig(t)
	r.doubted(1, 1, "unknown")
	r.doubted(2, 2, "permanent")
	x := r.hooked(&known{at: map[string]claims.Claim{"main-1-2": {}}}, "")
	for _, c := range []struct {
		s    Selector
		why  string
		want int64
	}{{Selector{All: true}, "repaired", 0}, {Selector{IDs: ids(1, 2)}, "", 0}, {Selector{IDs: ids(1, 2)}, "the bank shows no transfer", 2}} {
		id := r.plan(Plan{Spec: Spec{Selector: c.s}, Start: true, Why: c.why})
		r.run(x)
		j, w := r.get(id), r.words(id)
		if j.Replayed != c.want || c.want == 0 && (w["unknown"] != 1 || w["unproven"] != 1 || !strings.Contains(fmt.Sprint(j.Refusals), "--why")) {
			t.Errorf("%+v, %q: %d went, want %d: %v", c.s, c.why, j.Replayed, c.want, j.Refusals)
		}
	}
}

// A hook that is away ends its replay after a few letters, and a handler that may be
// running still is asked about by nobody.
func TestAHookThatDoesNotAnswerStopsItsReplay(t *testing.T) {
	r := newRig(t)
	r.doubted(1, 20, "unknown")
	r.exec(`update perdure.dead_letters set error_class = 'abandoned' where letter = 'main-1-1@0'`)
	h := newHook(t, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Off: true}}, Start: true})
	r.run(r.hooked(&known{}, h.URL))
	if j := r.get(id); j.State != Stopped || !strings.Contains(j.Note, "reconcile: it gave no answer for") || j.Replayed != 0 {
		t.Errorf("%+v", j)
	}
	if n := h.total(); n >= 20 || h.asked["main-1-1"] != 0 {
		t.Errorf("asked %d times, %d of them about a handler that may be running", n, h.asked["main-1-1"])
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 20 {
		t.Errorf("%d letters are open, want all", n)
	}
}

//go:build soak

package loadtest

// An outage, as the roles' own processes go through it: a dependency answers for
// two minutes with errors that nobody may retry, and some payloads are bad for
// good. Causes are told apart, a canary finds that the cause is still there, a
// policy repairs what the outage did and nothing else. Checks I1, I2 and I7 in the
// dependency's own ledger.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/replayer"
	"github.com/perdure/perdure/schemas"
)

// Size of the scene: PERDURE_SOAK_OUTAGE tasks, 50,000 by default, of which a
// half comes while the dependency is out for PERDURE_SOAK_OUTAGE_LASTS, 2m by default.
func sceneOf(t *testing.T) (tasks int, lasts time.Duration) {
	tasks, lasts = 50_000, 2*time.Minute
	var err1, err2 error
	if v := os.Getenv("PERDURE_SOAK_OUTAGE"); v != "" {
		tasks, err1 = strconv.Atoi(v)
	}
	if v := os.Getenv("PERDURE_SOAK_OUTAGE_LASTS"); v != "" {
		lasts, err2 = time.ParseDuration(v)
	}
	if err := errors.Join(err1, err2); err != nil || tasks < 400 || lasts < time.Second {
		t.Fatalf("size of the outage: %d tasks, %v: %v", tasks, lasts, err)
	}
	return tasks, lasts
}

// bank is a dependency that can be out. What it lets through, its ledger applies.
type bank struct {
	Ledger
	out atomic.Bool

	mu      sync.Mutex
	refused map[string]int // by the class of the answer
	again   int            // replayed tasks that it was asked for while it was out
}

type bankTask struct {
	Row    int  `json:"row"`
	Poison bool `json:"poison"`
}

// outageErrors are what it answers while it is out, by row; all are permanent to
// an executor. Their details differ from task to task, as real ones do.
var outageErrors = []struct {
	status int
	class  string
	detail string
}{
	{http.StatusUnprocessableEntity, "urn:bank:outage:read-only", "shard %d is read-only, transaction 7f3a%08x refused"},
	{http.StatusBadRequest, "urn:bank:outage:version", "field amount_cents of payment %d is unknown to this version, request %d"},
	{http.StatusGone, "urn:bank:outage:moved", "account %d was moved away, ask again with ticket #%d"},
}

const poisonClass = "urn:bank:bad-account"

func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var task bankTask
	if err == nil {
		err = json.Unmarshal(body, &task)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := b.out.Load()
	if out {
		if fence, err := strconv.ParseInt(r.Header.Get("Perdure-Fence"), 10, 64); err == nil && fence>>48 > 0 {
			b.mu.Lock()
			b.again++
			b.mu.Unlock()
		}
	}
	switch {
	case task.Poison:
		b.refuse(w, http.StatusUnprocessableEntity, poisonClass, fmt.Sprintf("account %q of row %d does not exist", fmt.Sprint("DE", task.Row), task.Row))
	case out:
		e := outageErrors[task.Row%len(outageErrors)]
		b.refuse(w, e.status, e.class, fmt.Sprintf(e.detail, task.Row, task.Row*31))
	default:
		r.Body = io.NopCloser(bytes.NewReader(body))
		b.Ledger.ServeHTTP(w, r)
	}
}

func (b *bank) refuse(w http.ResponseWriter, status int, class, detail string) {
	b.mu.Lock()
	if b.refused == nil {
		b.refused = map[string]int{}
	}
	b.refused[class]++
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": class, "status": status, "detail": detail})
}

func (b *bank) replayedWhileOut() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.again
}

func TestSoakOutage(t *testing.T) {
	tasks, lasts := sceneOf(t)
	const poisons, canary = 200, 10
	quiet := max(lasts/8, time.Second)

	b := &bank{}
	f := newFleet(t, &b.Ledger, patient)
	server := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	ln := listen(t)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	f.write("catalog.yaml", fmt.Sprintf(`version: 1
queues: {load: {partitions: 4}}
kinds:
  load.step: {queue: load, timeout: 10s, effects: fenced, retry: {%s}, executor: {http: {url: "http://%s/run"}}}
policies:
  bank-is-back:
    when: {kind: load.step, reason: permanent, class: "urn:bank:outage:*"}
    wait_for: {quiet: %s}
    action: replay
    replay: {canary: %d, success: 90}
    limits: {per_hour: 1000000}
`, patient, ln.Addr(), quiet, canary))
	for _, name := range []string{"dispatcher", "relay", "worker", "replayer"} {
		f.start(name, "1")
	}

	// A quarter of the tasks comes before, a half during, a quarter after the outage.
	db := connect(t, f.DB)
	total := tasks + poisons
	steps := int(lasts/(100*time.Millisecond)) * 2
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	var tried time.Duration
	for s := range steps {
		switch s {
		case steps / 4:
			b.out.Store(true)
		case steps / 2: // it is out in earnest: somebody is too early
			tried = tooEarly(t, f, b, canary)
		case steps * 3 / 4:
			b.out.Store(false)
		}
		first, last := s*total/steps, (s+1)*total/steps-1
		if _, err := db.Exec(t.Context(), `select perdure.enqueue(kind => 'load.step',
  payload => jsonb_build_object('row', i, 'poison', i % ($3::int / $4::int) = 0 and i / ($3::int / $4::int) < $4)) from generate_series($1::int, $2::int) i`,
			first, last, total, poisons); err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	fed := time.Since(began)
	if n := b.replayedWhileOut(); n == 0 || n > canary {
		t.Errorf("%d replayed tasks reached the dependency while it was out, want the canary's %d at most", n, canary)
	}

	testkit.Eventually(t, max(10*lasts, 3*time.Minute), func() (bool, string) {
		x := f.balance()
		return x.Completed == int64(tasks), fmt.Sprintf("balance: %+v", x)
	})
	mended := time.Since(began) - fed
	if x := f.balance(); x.Accepted != int64(total) || x.Completed != int64(tasks) || x.Dead != poisons || x.Waiting != 0 || x.Lost != 0 {
		t.Errorf("balance %+v, want %d accepted = %d completed + %d open dead letters", x, total, tasks, poisons)
	}
	s := b.Summary()
	if want := (Summary{Tasks: tasks, Deliveries: tasks, Applied: tasks, Bodies: tasks}); s != want {
		t.Errorf("ledger %+v, want %+v", s, want)
	}
	died := sceneGroups(t, f, poisons, tasks)
	var replays struct {
		Replays []replayer.Replay `json:"replays"`
	}
	if err := json.Unmarshal([]byte(f.run("replay", "status", "-o", "json")), &replays.Replays); err != nil {
		t.Fatal(err)
	}
	for _, r := range replays.Replays {
		t.Logf("replay by %-20s %s: %d letters, %d replayed, %d refused, %d completed, %d died again: %s", r.Who, r.State, r.Letters, r.Replayed, r.Refused, r.Became.Completed, r.Became.DiedAgain, r.Note)
	}
	t.Logf("%d tasks and %d bad payloads over %v, out for %v: %d died of the outage in 3 groups; a replay that was too early stopped after %v with %d attempts at the dependency; all mended %v after the last task",
		tasks, poisons, fed.Round(time.Second), lasts, died, tried.Round(time.Millisecond), b.replayedWhileOut(), mended.Round(time.Second))
}

// tooEarly replays a group while its cause is still there, and says how long it
// took until the replay stopped itself.
func tooEarly(t *testing.T, f *fleet, b *bank, canary int) time.Duration {
	t.Helper()
	var group string
	testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
		for _, g := range groupsOf(t, f) {
			if g.Sample.ErrorClass == outageErrors[0].class && g.States["open"] > canary {
				group = g.Group
				return true, ""
			}
		}
		return false, "too few letters of the first cause are indexed"
	})
	began := time.Now()
	cmd := f.command("replay", "start", "--group", group, "--canary", strconv.Itoa(canary), "--yes", "--why", "is it back?")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "canary: ") {
		t.Errorf("a replay of a cause that is still there: %v, want exit 1 by the canary\n%s", err, out)
	}
	return time.Since(began)
}

func groupsOf(t *testing.T, f *fleet) (groups []dlq.Group) {
	t.Helper()
	if err := json.Unmarshal([]byte(f.run("dlq", "groups", "-o", "json")), &groups); err != nil {
		t.Fatal(err)
	}
	return groups
}

// sceneGroups checks that there are four causes, of which three are mended, and
// returns how many tasks these had killed.
func sceneGroups(t *testing.T, f *fleet, poisons, tasks int) (died int) {
	t.Helper()
	groups := groupsOf(t, f)
	if len(groups) != 4 {
		t.Errorf("%d groups, want 4: %+v", len(groups), groups)
	}
	for _, g := range groups {
		open, letters := 0, int(g.Letters)
		if g.Sample.ErrorClass == poisonClass {
			if open = poisons; letters != poisons {
				t.Errorf("%s: %d letters, want %d", g.Sample.ErrorClass, letters, poisons)
			}
		} else {
			died += letters
		}
		if g.States[string(schemas.LetterOpen)] != open || g.States[string(schemas.LetterHeld)]+g.States[string(schemas.LetterReplaying)] != 0 {
			t.Errorf("%s: %v, want %d open and none held or under way", g.Sample.ErrorClass, g.States, open)
		}
	}
	if died < tasks/4 {
		t.Errorf("the outage killed %d tasks only", died)
	}
	return died
}

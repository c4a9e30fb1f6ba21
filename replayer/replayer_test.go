package replayer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("REPLAYER_TEST_CHILD"); url != "" {
		child(url)
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "fix-jq" {
		jqMain()
		return
	}
	testkit.Main(m)
}

// known are claims as a test wants them; what is not named is dead at epoch 0.
type known struct {
	mu  sync.Mutex
	at  map[string]claims.Claim
	err error
}

func (k *known) Get(_ context.Context, ids ...string) ([]claims.Claim, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	out := make([]claims.Claim, len(ids))
	for i, id := range ids {
		c, ok := k.at[id]
		if !ok {
			c = claims.Claim{State: claims.Dead}
		}
		out[i] = c
	}
	return out, nil
}

type rig struct {
	t    testing.TB
	url  string
	db   *pgxpool.Pool
	jobs *Jobs

	played int // scenarios of mutations_test.go
}

func newRig(t testing.TB) *rig {
	t.Helper()
	url := testkit.MigratedPostgres(t).URL
	db, err := pg.Pool(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return &rig{t: t, url: url, db: db, jobs: NewJobs(db, nil, jqCommand())}
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// letters puts open letters of main-1-<from…to> into the index, as it would.
func (r *rig) letters(from, to int, change func(*schemas.Task)) {
	r.t.Helper()
	for n := from; n <= to; n++ {
		task := &schemas.Task{ID: fmt.Sprintf("main-1-%d", n), Kind: "idem", Key: "k", Payload: []byte(`{"n":` + strconv.Itoa(n) + `}`),
			Time: time.Unix(1e9, 0), Headers: map[string]string{"x-user": "u"}}
		if change != nil {
			change(task)
		}
		hs := "["
		for i, h := range schemas.AppendRecordHeaders[kgo.RecordHeader](nil, task) {
			if i > 0 {
				hs += ","
			}
			hs += fmt.Sprintf(`[%q, "%s"]`, h.Key, b64(h.Value))
		}
		var deadline *time.Time
		if !task.Deadline.IsZero() {
			deadline = &task.Deadline
		}
		r.exec(`insert into perdure.dead_letters (letter, task_id, epoch, kind, queue, key, reason, fingerprint, run, record_key, headers, payload,
  deadline, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
values ($1, $2, $3, $4, 'payments', 'k', 'permanent', 'fp1:aa', 5, $5, $6::jsonb, $7, $8, 't', 0, 0, 'd', 0, 0, now())`,
			dlq.LetterID(task.ID, task.Epoch), task.ID, task.Epoch, task.Kind, []byte(task.RecordKey()), hs+"]", task.Payload, deadline)
	}
}

// plan plans without a canary, unless one is asked for: here no task ever ends.
func (r *rig) plan(p Plan) string {
	r.t.Helper()
	p.Who = "tester"
	if p.Canary.Letters == 0 {
		p.Canary.Off = true
	}
	id, err := r.jobs.Plan(r.t.Context(), p)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) replayer(name string, c Claims) *Replayer {
	r.t.Helper()
	x, err := New(Config{Instance: name, Slice: 7, Poll: time.Millisecond, Lease: 2 * time.Second}, Deps{DB: r.db, Claims: c, Catalog: catalog(), Log: testkit.Logger(r.t)})
	if err != nil {
		r.t.Fatal(err)
	}
	return x
}

// run works until all jobs are over.
func (r *rig) run(xs ...*Replayer) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	for _, x := range xs {
		wg.Go(func() {
			if err := x.Run(ctx); err != nil {
				r.t.Error(err)
			}
		})
	}
	testkit.Eventually(r.t, 30*time.Second, func() (bool, string) {
		n := r.count(`select count(*) from perdure.replays where state in ('planning', 'canary', 'ramping', 'running')`)
		return n == 0, fmt.Sprint(n, " replays are running")
	})
	cancel()
	wg.Wait()
}

func (r *rig) get(id string) *Replay {
	r.t.Helper()
	j, err := r.jobs.Get(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return j
}

func TestReplayMovesLettersWholeAndSaysWhatItRefused(t *testing.T) {
	r := newRig(t)
	r.letters(1, 20, nil)
	r.letters(21, 21, func(t *schemas.Task) { t.Epoch = 3; t.Deadline = time.Now().Add(time.Hour) })
	r.letters(22, 22, func(t *schemas.Task) { t.Deadline = time.Now().Add(-time.Hour) })
	r.letters(23, 23, func(t *schemas.Task) { t.Kind = "gone" })
	r.letters(24, 25, nil)
	k := &known{at: map[string]claims.Claim{"main-1-21": {State: claims.Dead, Epoch: 3}, "main-1-24": {State: claims.Done}, "main-1-25": {State: claims.Running}}}

	// A dry run says the same and changes nothing.
	dry := r.plan(Plan{Spec: Spec{Selector: Selector{Group: "fp1:aa"}}, DryRun: true})
	r.run(r.replayer("a", k))
	if j := r.get(dry); j.Replayed != 21 || j.Refused != 4 || j.State != Done {
		t.Errorf("dry run: %+v", j)
	}
	if n := r.count(`select count(*) from perdure.outbox`); n != 0 {
		t.Fatalf("a dry run wrote %d outbox rows", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 25 {
		t.Fatalf("a dry run changed %d letters", 25-n)
	}

	id := r.plan(Plan{Spec: Spec{Selector: Selector{Group: "fp1:aa"}}, Why: "bank is back"})
	if j := r.get(id); j.State != Planning || j.Letters != 25 || j.Left != 25 || len(j.Hash) != 64 {
		t.Errorf("planning: %+v", j)
	}
	if err := r.jobs.Start(t.Context(), id, "tester", ""); !errors.Is(err, ErrState) {
		t.Errorf("a plan that was not looked at was started: %v", err)
	}
	r.run(r.replayer("a", k))
	if j := r.get(id); j.State != Planned || j.Letters != 25 || j.Left != 21 || j.Refused != 4 || j.Replayed != 0 {
		t.Errorf("planned: %+v", j)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 24 { // all but the completed one
		t.Fatalf("planning left %d letters open", n)
	}
	if err := r.jobs.Start(t.Context(), id, "tester", ""); err != nil {
		t.Fatal(err)
	}
	r.run(r.replayer("a", k))
	j := r.get(id)
	words := map[string]int64{}
	for _, x := range j.Refusals {
		word, _, _ := strings.Cut(x.Why, ":")
		words[word] = x.Letters
	}
	if j.State != Done || j.Replayed != 21 || words["completed"] != 1 || words["running"] != 1 || words["expired"] != 1 || words["unknown_kind"] != 1 {
		t.Errorf("%+v %v", j, words)
	}
	if j.Became.UnderWay != 21 {
		t.Errorf("became: %+v", j.Became)
	}
	if n := r.count(`select count(*) from perdure.outbox o join perdure.dead_letters d using (task_id)
where o.epoch = d.epoch + 1 and o.payload = d.payload and o.kind = d.kind and o.queue = d.queue and o.key = 'k' and o.headers = '{"x-user": "u"}'
  and o.content_type = 'application/json' and o.deadline is not distinct from d.deadline and d.state = 'replaying' and d.replays = 1`); n != 21 {
		t.Errorf("%d of 21 outbox rows are their letters' originals", n)
	}
	if n := r.count(`select count(*) from perdure.audit, jsonb_object_keys(details -> 'letters') where what = 'letters.replay' and who = 'tester' and why = 'bank is back' and replay = $1`, id); n != 21 {
		t.Errorf("%d audit rows, want 21", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where task_id = 'main-1-24' and state = 'resolved' and resolved_by = 'completed'`); n != 1 {
		t.Error("the letter of a completed task is still open")
	}
	// Again: everything is refused, nothing moves.
	again := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-1", "main-1-2@0", "main-1-24", "nobody"}}}, Start: true})
	r.run(r.replayer("b", k))
	if j := r.get(again); j.Replayed != 0 || j.Refused != 4 {
		t.Errorf("again: %+v", j)
	}
	if n := r.count(`select count(*) from perdure.outbox`); n != 21 {
		t.Errorf("%d outbox rows, want 21", n)
	}
}

// A replay of a replay counts; after so many a person must look. Who names the
// letter has looked.
func TestLetterOfATaskThatWasReplayedTooOftenIsHeld(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, func(t *schemas.Task) { t.Epoch = 2 })
	r.letters(4, 4, func(t *schemas.Task) { t.Epoch = 1 })
	k := &known{at: map[string]claims.Claim{}}
	for n, e := range map[int]int{1: 2, 2: 2, 3: 2, 4: 1} {
		k.at[fmt.Sprint("main-1-", n)] = claims.Claim{State: claims.Dead, Epoch: e}
	}
	x := r.replayer("a", k)
	x.deps.Catalog.Replays.MaxReplays = 2
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(x)
	if j := r.get(id); j.Replayed != 1 || j.Refused != 3 || !strings.HasPrefix(j.Refusals[0].Why, "held: ") {
		t.Errorf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'held'`); n != 3 {
		t.Errorf("%d letters are held, want 3", n)
	}
	if n := r.count(`select count(*) from perdure.audit, jsonb_array_elements(details -> 'letters') where what = 'letters.hold'`); n != 3 {
		t.Errorf("%d letters in the audit", n)
	}
	id = r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-2"}}}})
	r.run(x)
	if err := r.jobs.Start(t.Context(), id, "t", ""); err != nil {
		t.Fatal(err)
	}
	r.run(x)
	if j := r.get(id); j.Replayed != 1 || r.count(`select count(*) from perdure.outbox where task_id = 'main-1-2' and epoch = 3`) != 1 {
		t.Errorf("%+v", j)
	}
}

// An id that no letter has is refused by what is known of the task.
func TestATaskWithoutALetterIsRefusedByItsState(t *testing.T) {
	r := newRig(t)
	k := &known{at: map[string]claims.Claim{"main-1-41": {State: claims.Done}, "main-1-42": {State: claims.Running}, "main-1-43": {State: claims.Cancelled},
		"main-1-44": {}, "nobody": {State: claims.Done}}}
	for id, word := range map[string]string{"main-1-41": "completed", "main-1-42": "running", "main-1-43": "cancelled", "main-1-44": "not-found", "nobody": "not-found"} {
		for _, dry := range []bool{true, false} {
			job := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{id}}}, DryRun: dry, Start: true})
			r.run(r.replayer("a", k))
			j := r.get(job)
			if len(j.Refusals) != 1 || !strings.HasPrefix(j.Refusals[0].Why, word+":") || j.Refusals[0].Sample != id || j.Replayed != 0 {
				t.Errorf("%s (dry run %v): %+v, want it refused as %s", id, dry, j.Refusals, word)
			}
		}
	}
}

// Two replays, two processes, the same letters, fifty times: one run each.
func TestRivalReplaysMoveALetterOnce(t *testing.T) {
	r := newRig(t)
	const races, each = 50, 12
	for race := range races {
		r.letters(race*each+1, (race+1)*each, nil)
		var ids [2]string
		var both sync.WaitGroup
		for i := range ids { // of one group, at the same moment
			both.Go(func() {
				p := Plan{Spec: Spec{Selector: Selector{Group: "fp1:aa"}, Canary: Canary{Off: true}}, Start: true, Who: "tester"}
				var err error
				if ids[i], err = r.jobs.Plan(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if t.Failed() {
			return
		}
		r.run(r.replayer("a", &known{}), r.replayer("b", &known{}))
		if ja, jb := r.get(ids[0]), r.get(ids[1]); ja.Replayed+jb.Replayed != each || ja.Refused+jb.Refused != each {
			t.Fatalf("race %d: %+v %+v", race, ja, jb)
		}
	}
	if n := r.count(`select count(*) from (select task_id from perdure.outbox group by task_id having count(*) = 1) x`); n != races*each {
		t.Errorf("%d of %d tasks have exactly one outbox row", n, races*each)
	}
}

// Two processes that believe to hold the same job (a lease that ran out).
func TestTwoRunnersOfOneJobMoveALetterOnce(t *testing.T) {
	r := newRig(t)
	r.letters(1, 60, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	a, b := r.replayer("a", &known{}), r.replayer("b", &known{})
	for left := true; left; {
		var wg sync.WaitGroup
		var more [2]bool
		for i, x := range []*Replayer{a, b} {
			wg.Go(func() {
				var err error
				if more[i], err = x.slice(t.Context(), &job{id: id, who: "t", state: Running}, 7); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		left = more[0] || more[1]
	}
	if n := r.count(`select count(distinct task_id) from perdure.outbox`); n != 60 || r.count(`select count(*) from perdure.outbox`) != 60 {
		t.Errorf("%d tasks, %d rows, want 60", n, r.count(`select count(*) from perdure.outbox`))
	}
	if j := r.get(id); j.Replayed != 60 || j.Refused != 0 {
		t.Errorf("%+v", j)
	}
}

// The process is SIGKILLed at random moments, again and again, until the job is done.
func TestKilledReplayerReplaysEveryLetterOnce(t *testing.T) {
	r := newRig(t)
	const n = 120
	r.letters(1, n, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	kills := 0
	for r.get(id).State == Running {
		if kills > 200 {
			t.Fatal("it makes no progress")
		}
		cmd := exec.Command(os.Args[0])
		// Another one each time: it waits for the lease of the one before.
		cmd.Env = append(os.Environ(), "REPLAYER_TEST_CHILD="+r.url, fmt.Sprintf("REPLAYER_TEST_STEPS=%d", 1+rand.IntN(40)), fmt.Sprintf("REPLAYER_TEST_NAME=child-%d", kills))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			kills++
		} else if err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	if kills < 3 {
		t.Errorf("only %d kills", kills)
	}
	if got := r.count(`select count(distinct task_id) from perdure.outbox where epoch = 1`); got != n || r.count(`select count(*) from perdure.outbox`) != n {
		t.Errorf("%d tasks, %d rows after %d kills, want %d", got, r.count(`select count(*) from perdure.outbox`), kills, n)
	}
	if j := r.get(id); j.Replayed != n || j.State != Done {
		t.Errorf("%+v", j)
	}
	if got := r.count(`select count(*) from perdure.audit, jsonb_object_keys(details -> 'letters') where what = 'letters.replay'`); got != n {
		t.Errorf("%d audit rows, want %d", got, n)
	}
}

// child is a replayer that kills its process after some steps, between them or
// in the middle of a statement.
func child(url string) {
	steps, _ := strconv.Atoi(os.Getenv("REPLAYER_TEST_STEPS"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db, err := pg.Pool(ctx, url)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	x, err := New(Config{Instance: os.Getenv("REPLAYER_TEST_NAME"), Slice: 3, Lease: 200 * time.Millisecond}, Deps{DB: db, Claims: &known{}, Catalog: catalog(), JQ: jqCommand()})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	x.steps = func(string) {
		if steps--; steps > 0 {
			return
		}
		if rand.IntN(2) == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		go func() { // while a statement is under way
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Microsecond)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}()
	}
	for idle := 0; idle < 50; idle++ {
		busy, err := x.turn(ctx)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if busy {
			idle = 0
			continue
		}
		time.Sleep(10 * time.Millisecond) // the lease of the one before
	}
}

// The context ends between any two steps: what began is whole, the rest waits.
func TestStoppedReplayerGoesOnWhereItWas(t *testing.T) {
	r := newRig(t)
	r.letters(1, 30, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	for at := 1; r.get(id).State == Running; at = at%11 + 1 {
		ctx, cancel := context.WithCancel(t.Context())
		x := r.replayer("a", &known{})
		left := at
		x.steps = func(string) {
			if left--; left == 0 {
				cancel()
			}
		}
		done := make(chan error, 1)
		go func() { done <- x.Run(ctx) }()
		testkit.Eventually(t, 10*time.Second, func() (bool, string) {
			return ctx.Err() != nil || r.count(`select count(*) from perdure.replays where state = 'running'`) == 0, "still running"
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`select count(*) from perdure.outbox`); n != 30 || r.count(`select count(distinct task_id) from perdure.outbox`) != 30 {
		t.Errorf("%d outbox rows, want 30", n)
	}
}

// With Redis away nothing moves and nothing is refused.
func TestNoLetterMovesWithoutItsClaim(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	k := &known{err: errors.New("redis: connection refused")}
	x := r.replayer("a", k)
	for range 3 {
		if _, err := x.turn(t.Context()); err == nil {
			t.Fatal("no error")
		}
	}
	if j := r.get(id); j.Left != 5 || r.count(`select count(*) from perdure.outbox`) != 0 {
		t.Errorf("%+v", j)
	}
	k.mu.Lock()
	k.err = nil
	k.mu.Unlock()
	r.run(x)
	if j := r.get(id); j.Replayed != 5 {
		t.Errorf("%+v", j)
	}
}

func TestCancelledReplayMovesNoMore(t *testing.T) {
	r := newRig(t)
	r.letters(1, 20, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	x := r.replayer("a", &known{})
	n := 0
	x.steps = func(step string) {
		if n++; step == "judged" && n == 7 { // of the second slice
			if err := r.jobs.Cancel(t.Context(), id, "tester", ""); err != nil {
				t.Error(err)
			}
		}
	}
	r.run(x)
	j := r.get(id)
	if j.State != Cancelled || j.Replayed != 7 || j.Left != 13 {
		t.Errorf("%+v", j)
	}
	if open := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); open != 13 {
		t.Errorf("%d letters are open, want 13", open)
	}
	if err := r.jobs.Start(t.Context(), id, "tester", ""); !errors.Is(err, ErrState) {
		t.Errorf("a cancelled replay was started: %v", err)
	}
}

func TestReplaysOverHTTP(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	r.jobs.Routes(a)
	call := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		a.ServeHTTP(w, req)
		return w.Code, w.Body.String()
	}
	code, body := call("POST", "/v1/replays", `{"selector":{"kind":"idem"},"why":"x"}`)
	if code != 202 || !strings.Contains(body, `"letters":3`) {
		t.Fatal(code, body)
	}
	id := body[strings.Index(body, `"r-`)+1:][:14]
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/replays/" + id, "", 200, `"state":"planning"`},
		{"POST", "/v1/replays/" + id + "/start", "", 409, `it is planning`},
		{"GET", "/v1/replays", "", 200, id},
		{"POST", "/v1/replays/" + id + "/cancel", "", 200, `"state":"cancelled"`},
		{"POST", "/v1/replays/" + id + "/start", "", 409, "replay-state"},
		{"POST", "/v1/replays/" + id + "/pause", `{"why":"x"}`, 409, "it is cancelled"},
		{"POST", "/v1/replays/" + id + "/rate", `{"rate":5}`, 409, "it is cancelled"},
		{"POST", "/v1/replays/" + id + "/approve", "", 409, "it is cancelled"},
		{"POST", "/v1/replays/" + id + "/resume", "", 409, "it is cancelled"},
		{"GET", "/v1/replays/" + id + "/watch", "", 200, "event: end\ndata: {"},
		{"GET", "/v1/replays/r-none", "", 404, "no-such-replay"},
		{"GET", "/v1/replays/r-none/watch", "", 404, "no-such-replay"},
		{"POST", "/v1/replays", `{"selector":{"reason":"perm"}}`, 422, "#/selector/reason"},
		{"POST", "/v1/replays", `{"selector":{"all":true},"where":".payload.n >"}`, 422, "#/where\",\"detail\":\"at byte"},
		{"POST", "/v1/replays", `{"selector":{"all":true},"ramp":"10 s","rate":1}`, 422, "not a duration"},
		{"POST", "/v1/replays", `{"selector":{"all":true},"ramp":"10s"}`, 422, "#/ramp"},
		{"POST", "/v1/replays", `{"selector":{}}`, 422, "#/selector"},
		{"POST", "/v1/replays", `{"selector":{"kid":"x"}}`, 422, "kid"},
	} {
		if code, body := call(c.method, c.path, c.body); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, code, body)
		}
	}
}

// A job whose plan cannot be read is set aside: it is the first to be due, and would be
// taken again and again.
func TestAPlanThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	r := newRig(t)
	r.letters(1, 5, nil)
	bad := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-1@0"}}}, Start: true})
	good := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-2@0"}}}, Start: true})
	r.exec(`update perdure.replays set spec = '{"rate": "fast"}' where replay = $1`, bad)
	r.start(r.replayer("a", &known{}))
	if j := r.until(good, Done); j.Replayed != 1 {
		t.Errorf("%+v", j)
	}
	if j := r.until(bad, Stopped); j.Replayed != 0 || !strings.Contains(j.Note, "its plan cannot be read") {
		t.Errorf("%+v", j)
	}
	if list, err := r.jobs.List(t.Context(), 10); err != nil || len(list) != 2 {
		t.Errorf("%d replays are listed: %v", len(list), err)
	}
	if n := r.count(`select count(*) from perdure.audit where (replay, what) in (($1, 'replay.stop'), ($2, 'replay.done'))`, bad, good); n != 2 {
		t.Errorf("%d audit rows of the two ends", n)
	}
}

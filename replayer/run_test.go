package replayer

// A plan as it runs: canary, rate, stop rules, and what people do meanwhile.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// start works until the test ends, or stop is called.
func (r *rig) start(xs ...*Replayer) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	for _, x := range xs {
		wg.Go(func() {
			if err := x.Run(ctx); err != nil {
				r.t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(stop)
	return stop
}

// until waits for a state of a replay.
func (r *rig) until(id string, want State) *Replay {
	r.t.Helper()
	var j *Replay
	testkit.Eventually(r.t, time.Minute, func() (bool, string) {
		j = r.get(id)
		return j.State == want, fmt.Sprintf("%s, want %s: %s", j.State, want, j.Note)
	})
	return j
}

// outcome settles up to n letters that are being replayed, as the index does.
func (r *rig) outcome(n int, died bool, fp string) {
	r.t.Helper()
	outcome := "completed"
	if died {
		outcome = "died_again"
	}
	r.exec(`with d as (
  update perdure.dead_letters set state = 'resolved', resolved_by = case when $2 = 'completed' then 'completed' else 'replay' end
  where letter in (select letter from perdure.dead_letters where state = 'replaying' order by letter limit $1 for update) returning letter, fingerprint)
insert into perdure.replay_outcomes (replay, n, outcome, fingerprint, same)
select l.replay, l.n, $2, $3, $3 = d.fingerprint from d join perdure.replay_letters l on l.letter = d.letter and l.result = 'replayed'`, n, outcome, fp)
}

// The cause is still there: no more tasks than the canary's reach the dependency,
// though two processes believe to hold the job.
func TestCanaryCatchesACauseThatIsStillThere(t *testing.T) {
	r := newRig(t)
	r.letters(1, 60, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Letters: 8, Success: 0.75}}, Start: true})
	a, b := r.replayer("a", &known{}), r.replayer("b", &known{})
	for range 6 { // rivals
		var wg sync.WaitGroup
		for _, x := range []*Replayer{a, b} {
			wg.Go(func() {
				spec := Spec{Canary: Canary{Letters: 8}}
				if _, err := x.slice(t.Context(), &job{id: id, who: "t", state: InCanary, spec: spec}, 7); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if n := r.count(`select count(*) from perdure.outbox`); n != 8 {
		t.Fatalf("%d letters went, want the canary's 8", n)
	}
	r.start(a, b)
	r.outcome(5, false, "")
	testkit.Eventually(t, time.Minute, func() (bool, string) { n := r.get(id).Became.Completed; return n == 5, fmt.Sprint(n, " completed") })
	if j := r.get(id); j.State != InCanary || j.Replayed != 8 {
		t.Fatalf("before the bar is met or missed: %+v", j)
	}
	r.outcome(2, true, "fp1:aa")
	testkit.Eventually(t, time.Minute, func() (bool, string) { n := r.get(id).Became.DiedAgain; return n == 2, fmt.Sprint(n, " died") })
	r.outcome(1, true, "fp1:bb")
	j := r.until(id, Stopped)
	if !strings.Contains(j.Note, "canary: 3 of 8 did not complete, 2 of them died of the same cause") || j.Replayed != 8 {
		t.Errorf("%+v", j)
	}
	if len(j.Became.Causes) != 2 || j.Became.Causes[0] != (Cause{"fp1:aa", 2}) || j.Became.DiedSame != 2 {
		t.Errorf("causes: %+v", j.Became)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'replay.stop' and replay = $1`, id); n != 1 {
		t.Errorf("%d audit rows of the stop", n)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 52 {
		t.Errorf("%d letters are open, want 52", n)
	}
	if err := r.jobs.Resume(t.Context(), id, "t", ""); !errors.Is(err, ErrState) {
		t.Errorf("a stopped replay was resumed: %v", err)
	}
}

func TestCanaryThatDoesWellLetsTheRestGo(t *testing.T) {
	r := newRig(t)
	r.letters(1, 30, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Canary: Canary{Letters: 4}, Rate: 1000, Ramp: Duration(50 * time.Millisecond)}, Start: true})
	r.start(r.replayer("a", &known{}))
	testkit.Eventually(t, time.Minute, func() (bool, string) { n := r.get(id).Replayed; return n == 4, fmt.Sprint(n) })
	r.outcome(4, false, "")
	if j := r.until(id, Done); j.Replayed != 30 || j.Became.Completed != 4 || j.Became.UnderWay != 26 {
		t.Errorf("%+v", j)
	}
	r.outcome(26, false, "")
	testkit.Eventually(t, time.Minute, func() (bool, string) { // also after it is done
		n := r.get(id).Became.Completed
		return n == 30, fmt.Sprint(n)
	})
	if n := r.count(`select count(*) from perdure.replay_outcomes`); n != 0 {
		t.Errorf("%d outcomes were left", n)
	}
}

func TestDecide(t *testing.T) {
	canary := Spec{Canary: Canary{Letters: 10, Success: 0.9, Patience: Duration(time.Minute)}, Stop: Stop{ErrorRate: 0.5, Outcomes: 4}}
	ramp := Spec{Rate: 1000, Ramp: Duration(10 * time.Second), Stop: Stop{Off: true}}
	for name, c := range map[string]struct {
		j    job
		want verdict
	}{
		"canary begins":               {job{state: InCanary, spec: canary, letters: 100}, verdict{move: 10}},
		"canary goes on":              {job{state: InCanary, spec: canary, letters: 100, replayed: 7}, verdict{move: 3}},
		"canary waits":                {job{state: InCanary, spec: canary, letters: 100, replayed: 10, completed: 9}, verdict{pause: outcomePoll}},
		"canary is well":              {job{state: InCanary, spec: canary, letters: 100, replayed: 10, completed: 9, died: 1}, verdict{to: Running}},
		"canary is well, then a ramp": {job{state: InCanary, spec: Spec{Canary: canary.Canary, Rate: 5, Ramp: 1}, letters: 100, replayed: 10, completed: 10}, verdict{to: Ramping}},
		"canary was the whole plan":   {job{state: InCanary, spec: canary, letters: 9, replayed: 7, refused: 2}, verdict{move: 3}},
		"canary takes too long":       {job{state: InCanary, spec: canary, letters: 100, replayed: 10, canary: time.Hour}, verdict{to: Stopped}},
		"canary fails":                {job{state: InCanary, spec: canary, letters: 100, replayed: 10, died: 2}, verdict{to: Stopped}},
		"canary fails while it goes":  {job{state: InCanary, spec: canary, letters: 100, replayed: 3, died: 2}, verdict{to: Stopped}},
		"ramp":                        {job{state: Ramping, spec: ramp, letters: 1000, ramped: 5 * time.Second, tokens: 30}, verdict{move: 30}},
		"ramp, nothing saved up":      {job{state: Ramping, spec: ramp, letters: 1000, ramped: 5 * time.Second}, verdict{pause: 50 * time.Millisecond}},
		"ramp begins at a tenth":      {job{state: Ramping, spec: ramp, letters: 1000}, verdict{pause: 50 * time.Millisecond}},
		"ramp is over":                {job{state: Ramping, spec: ramp, letters: 1000, ramped: 10 * time.Second}, verdict{to: Running}},
		"no rate":                     {job{state: Running, letters: 1000, spec: Spec{Stop: Stop{Off: true}}}, verdict{move: 500}},
		"the last letters":            {job{state: Running, spec: ramp, letters: 1000, replayed: 997, tokens: 2.5}, verdict{move: 2}},
		"error rate":                  {job{state: Running, spec: canary, letters: 1000, replayed: 9, completed: 2, died: 3}, verdict{to: Stopped}},
		"error rate of too few":       {job{state: Running, spec: canary, letters: 1000, replayed: 9, died: 3}, verdict{move: 500}},
		"same cause":                  {job{state: Running, spec: Spec{Stop: Stop{ErrorRate: 1, Outcomes: 1, SameFingerprint: 3}}, letters: 1000, replayed: 9, died: 3, same: 3}, verdict{to: Stopped}},
		"lag":                         {job{state: Ramping, spec: Spec{Stop: Stop{ErrorRate: 1, Outcomes: 1, Lag: 5}}, letters: 1000, replayed: 9, completed: 4}, verdict{to: Stopped}},
	} {
		got := decide(&c.j, 500)
		if (got.why != "") != (c.want.to == Stopped) {
			t.Errorf("%s: why %q", name, got.why)
		}
		if got.why = ""; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// The rate holds over several processes, a change of it while it runs included.
func TestRateIsKept(t *testing.T) {
	r := newRig(t)
	r.bulk(3000)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Rate: 200}, Start: true})
	began := time.Now()
	var xs []*Replayer
	for _, name := range []string{"a", "b", "c"} {
		x := r.replayer(name, &known{})
		x.cfg.Slice = 500
		xs = append(xs, x)
	}
	r.start(xs...)
	testkit.Eventually(t, time.Minute, func() (bool, string) { n := r.get(id).Replayed; return n >= 300, fmt.Sprint(n) })
	if err := r.jobs.SetRate(t.Context(), id, "t", "", 1000); err != nil {
		t.Fatal(err)
	}
	r.until(id, Done)
	var first, second float64 // letters a second over the two parts, by the rows themselves
	if err := r.db.QueryRow(t.Context(), `with c as (select at from perdure.audit where what = 'replay.rate'),
s as (select (select at from c) as at, (select created_at from perdure.replays) as first, max(done_at) as last,
  count(*) filter (where done_at < (select at from c)) as a, count(*) filter (where done_at >= (select at from c)) as b from perdure.replay_letters)
select a / extract(epoch from at - first)::float8, b / extract(epoch from last - at)::float8 from s`).Scan(&first, &second); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f/s of 200/s, then %.1f/s of 1000/s, in %s", first, second, time.Since(began))
	// Never more: that is the promise to the dependency. Less is a busy machine's.
	if first > 200*1.05 || second > 1000*1.05 {
		t.Errorf("%.1f/s of 200/s, then %.1f/s of 1000/s", first, second)
	}
}

func TestPausedReplayMovesNothingUntilItIsResumed(t *testing.T) {
	r := newRig(t)
	r.letters(1, 80, nil)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Rate: 20, Ramp: Duration(time.Hour)}, Start: true})
	r.start(r.replayer("a", &known{}))
	testkit.Eventually(t, time.Minute, func() (bool, string) { return r.get(id).Replayed > 0, "nothing moves" })
	for range 2 { // twice is once
		if err := r.jobs.Pause(t.Context(), id, "t", "lunch"); err != nil {
			t.Fatal(err)
		}
	}
	then := r.get(id)
	if then.State != Paused || then.Resumes != Ramping || then.Note != "lunch" {
		t.Errorf("%+v", then)
	}
	other := r.plan(Plan{Spec: Spec{Selector: Selector{IDs: []string{"main-1-80"}}}, Start: true})
	if j := r.until(other, Done); j.Replayed != 1 { // so the replayer has looked for work since
		t.Errorf("%+v", j)
	}
	if now := r.get(id); now.Replayed != then.Replayed {
		t.Errorf("%d letters moved while paused", now.Replayed-then.Replayed)
	}
	if err := r.jobs.SetRate(t.Context(), id, "t", "", 0); err != nil {
		t.Fatal(err)
	}
	if err := r.jobs.Resume(t.Context(), id, "t", ""); err != nil {
		t.Fatal(err)
	}
	if j := r.until(id, Done); j.Replayed != 79 || j.Refused != 1 {
		t.Errorf("%+v", j)
	}
	if n := r.count(`select count(*) from perdure.audit where replay = $1 and what in ('replay.plan', 'replay.pause', 'replay.rate', 'replay.resume')`, id); n != 4 {
		t.Errorf("%d audit rows, want 4", n)
	}
}

// What a plan says is true when it starts, or it does not start.
func TestPlanWhoseLettersChangedDoesNotStart(t *testing.T) {
	r := newRig(t)
	r.letters(1, 10, nil)
	a := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}})
	b := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Limit: 4}})
	x := r.replayer("a", &known{})
	r.run(x)
	if ja, jb := r.get(a), r.get(b); ja.State != Planned || jb.State != Planned || ja.Hash == jb.Hash || jb.Letters != 4 {
		t.Fatalf("%+v %+v", ja, jb)
	}
	if err := r.jobs.Start(t.Context(), b, "t", ""); err != nil {
		t.Fatal(err)
	}
	r.run(x)
	r.outcome(1, false, "")
	var changed *ChangedError
	if err := r.jobs.Start(t.Context(), a, "t", ""); !errors.As(err, &changed) || changed.Changed != 4 || changed.Letters != 10 || len(changed.How) != 2 {
		t.Errorf("%v", err)
	}
	if n := r.count(`select count(*) from perdure.outbox`); n != 4 {
		t.Errorf("%d letters moved, want 4", n)
	}
	// Planned again, it has what is left; a letter that another replay holds is refused.
	c := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Rate: 0.001}, Start: true})
	d := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}})
	r.run2(x, d, Planned)
	if j := r.get(d); j.Refused != 6 || !strings.HasPrefix(j.Refusals[0].Why, "replaying: replay "+c) {
		t.Errorf("%+v", j)
	}
}

// run2 works until one replay is in a state.
func (r *rig) run2(x *Replayer, id string, want State) {
	r.t.Helper()
	stop := r.start(x)
	r.until(id, want)
	stop()
}

func TestPlanThatNeedsApproval(t *testing.T) {
	r := newRig(t)
	r.letters(1, 10, nil)
	cat := catalog()
	cat.Kinds["idem"].Sensitive = true
	for name, jobs := range map[string]*Jobs{"size": NewJobs(r.db, &schemas.Catalog{Replays: schemas.Replays{ApproveOver: 9}}, nil), "kind": NewJobs(r.db, cat, nil)} {
		id, err := jobs.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}, Limit: 10}, Start: true, Who: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		r.run(r.replayer("a", &known{}))
		if err := jobs.Start(t.Context(), id, "bob", ""); !errors.Is(err, ErrApproval) || r.get(id).State != Planned || r.get(id).Approval == "" {
			t.Fatalf("%s: started without approval: %v", name, err)
		}
		if err := jobs.Approve(t.Context(), id, "ann", ""); !errors.Is(err, ErrApproval) {
			t.Errorf("%s: approved by who planned it: %v", name, err)
		}
		if err := jobs.Approve(t.Context(), id, "bob", "looked at it"); err != nil {
			t.Fatal(err)
		}
		if j := r.get(id); j.State != Approved || j.ApprovedBy != "bob" {
			t.Errorf("%s: %+v", name, j)
		}
		if err := jobs.Start(t.Context(), id, "ann", ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := jobs.Cancel(t.Context(), id, "ann", ""); err != nil {
			t.Fatal(err)
		}
	}
	small := NewJobs(r.db, &schemas.Catalog{Replays: schemas.Replays{ApproveOver: 10}}, nil)
	if id, err := small.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true}); err != nil || r.get(id).Approval != "" {
		t.Errorf("a plan of the allowed size: %v", err)
	}
}

func TestWhere(t *testing.T) {
	r := newRig(t)
	r.letters(1, 120, nil)
	r.exec(`update perdure.dead_letters set payload = 'no JSON' where letter = 'main-1-7@0'`)
	r.exec(`update perdure.dead_letters set payload = '{"n": 8, "id": 9007199254740992}' where letter = 'main-1-8@0'`)
	r.exec(`update perdure.dead_letters set payload = '{"n": 9, "id": 9007199254740993}' where letter = 'main-1-9@0'`)
	for where, want := range map[string]int64{
		`.payload.n % 10 == 3`:                 12,
		`.payload.n > 100 and .kind == "idem"`: 20,
		`.headers["x-user"] == "u"`:            120,
		`.payload == null`:                     1,
		`.payload.n.deep`:                      0, // an error in the condition is no match
		`empty`:                                0,
		`"true"`:                               0,
		`.payload.n == 5, error`:               1, // the first answer
		"true # and no more":                   120,
		`def big: 9007199254740992; .payload.n == 6 or .payload.id == big`: 2,
	} {
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Where: where}})
		if j := r.get(id); j.Letters != want {
			t.Errorf("%s: %d letters, want %d", where, j.Letters, want)
		}
	}
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Where: `.payload.n > 50`, Limit: 60}})
	if n := r.count(`select count(*) from perdure.replay_letters where replay = $1 and n between 1 and 60`, id); n != 60 || r.get(id).Letters != 60 {
		t.Errorf("%d letters in their places, want 60", n)
	}
	before := r.count(`select count(*) from perdure.replays`)
	for where, says := range map[string]string{
		`.payload.n >`: "at byte 12", `.a | foo(`: "#/where", `halt`: "halts",
		// What would end this process, were it run here. Which limit is first depends on the machine.
		`[limit(1e9; repeat(1))] | length > 0`:                                            "was stopped",
		`.payload.n == 40 and (reduce range(40) as $i ("xxxxxxxxxxxxxxxx"; . + .)) != ""`: "main-1-40@0 (the condition was stopped",
		`("x" * 500000000) != ""`:                                                         "was stopped",
		`def f: [f]; f`:                                                                   "was stopped",
	} {
		_, err := r.jobs.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}, Where: where}})
		var syntax *SyntaxError
		var spec *SpecError
		switch {
		case errors.As(err, &syntax) && (strings.Contains(err.Error(), says) || syntax.Pointer == says):
		case errors.As(err, &spec) && strings.Contains(err.Error(), says):
		default:
			t.Errorf("%s: %v, want %q", where, err, says)
		}
	}
	if n := r.count(`select count(*) from perdure.replays`); n != before {
		t.Error("a plan with a wrong condition was made")
	}
	var mem runtime.MemStats
	if runtime.ReadMemStats(&mem); mem.Sys > 512<<20 {
		t.Errorf("this process grew to %d MiB", mem.Sys>>20)
	}
	none := NewJobs(r.db, nil, nil)
	if _, err := none.Plan(t.Context(), Plan{Spec: Spec{Selector: Selector{All: true}, Where: "true"}}); !errors.Is(err, errNoJQ) {
		t.Errorf("without a command for jq: %v", err)
	}
}

// A payload that no longer fits its kind's schema would only die again.
func TestPayloadThatNoLongerFitsIsRefused(t *testing.T) {
	r := newRig(t)
	r.letters(1, 4, nil)
	x := r.replayer("a", &known{})
	if err := x.deps.Catalog.Kinds["idem"].CompileSchema("s.json", map[string][]byte{"s.json": []byte(`{"properties": {"n": {"maximum": 3}}}`)}); err != nil {
		t.Fatal(err)
	}
	for _, start := range []bool{false, true} {
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: start})
		r.run(x)
		if j := r.get(id); j.Refused != 1 || !strings.HasPrefix(j.Refusals[0].Why, "schema: ") || j.Refusals[0].Sample != "main-1-4@0" {
			t.Errorf("%+v", j)
		}
	}
}

// Events tell a replay from its start to the last outcome.
func TestWatchTellsUntilTheLastOutcome(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, nil)
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	r.jobs.Routes(a)
	srv := httptest.NewServer(a)
	defer srv.Close()
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	resp, err := http.Get(srv.URL + "/v1/replays/" + id + "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	kind, stream := resp.Header.Get("Content-Type"), resp.Body
	var body strings.Builder
	var mu sync.Mutex
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			n, err := stream.Read(buf)
			mu.Lock()
			body.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	said := func(what string) {
		t.Helper()
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(body.String(), what), "not said: " + what
		})
	}
	said(`"left":3`)
	r.start(r.replayer("a", &known{}))
	said(`"under_way":3`)
	r.outcome(3, false, "")
	<-ended
	if s := body.String(); !strings.Contains(s, "event: end\n") || !strings.Contains(s, `"completed":3`) || kind != "text/event-stream" {
		t.Error(s)
	}
}

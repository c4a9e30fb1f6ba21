package replayer

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

type ledger struct{ n atomic.Int64 }

func (l *ledger) Last(context.Context) (int64, error)    { return l.n.Load(), nil }
func (l *ledger) Raise(_ context.Context, n int64) error { l.n.Store(n); return nil }

// The claims as workers really leave them, read by the store that is really
// used: what died is replayed, what is completed or under way is not.
func TestReplayByRealClaims(t *testing.T) {
	r := newRig(t)
	srv := testkit.Redis(t)
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr})
	t.Cleanup(func() { rdb.Close() }) //nolint:errcheck // only a test's
	worker, err := claims.New(rdb, claims.Config{Prefix: srv.Prefix, Ledger: &ledger{}, BeatTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	const owner = "w1/boot/1"
	if err := worker.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := worker.Beat(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	r.letters(1, 5, nil)
	coord := func(n int64) claims.Coord { return claims.Coord{Topic: "tasks.payments", Offset: n} }
	var recs []claims.Record
	for n, id := range []string{"main-1-1", "main-1-2", "main-1-3", "main-1-4"} {
		recs = append(recs, claims.Record{TaskID: id, Attempt: 1, Coord: coord(int64(n))})
	}
	grants, err := worker.Claim(t.Context(), owner, recs, nil)
	if err != nil {
		t.Fatal(err)
	}
	// 1 dies, 2 completes, 3 still runs, 4 waits for a retry, 5 was never claimed.
	if ok, err := worker.Dead(t.Context(), owner, []claims.DeadOutcome{{TaskID: "main-1-1", Attempt: 1, Coord: coord(0), Run: grants[0].Run, Reason: "permanent"}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	if _, err := worker.Done(t.Context(), owner, []claims.Outcome{{TaskID: "main-1-2", Run: grants[1].Run}}); err != nil {
		t.Fatal(err)
	}
	if ok, err := worker.Wait(t.Context(), owner, []claims.WaitOutcome{{TaskID: "main-1-4", Run: grants[3].Run, NextAttempt: 2, Due: time.Now()}}); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}

	reader, err := claims.New(rdb, claims.Config{Prefix: srv.Prefix}) // as the replayer's process has it
	if err != nil {
		t.Fatal(err)
	}
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(r.replayer("a", reader))
	j := r.get(id)
	words := map[string]int64{}
	for _, x := range j.Refusals {
		word, _, _ := strings.Cut(x.Why, ":")
		words[word] = x.Letters
	}
	if j.Replayed != 2 || words["completed"] != 1 || words["running"] != 2 {
		t.Errorf("%+v %v", j, words)
	}
	if n := r.count(`select count(*) from perdure.outbox where task_id in ('main-1-1', 'main-1-5') and epoch = 1`); n != 2 {
		t.Errorf("%d of the dead and the unknown task went back", n)
	}
	// The replay's record is granted, above every run before.
	again, err := worker.Claim(t.Context(), owner, []claims.Record{{TaskID: "main-1-1", Epoch: 1, Attempt: 1, Coord: coord(9)}}, nil)
	if err != nil || again[0].Verdict != claims.VerdictRun || again[0].Run <= grants[0].Run {
		t.Errorf("%+v %v", again, err)
	}
}

// A failover loses the newest claims, a death among them: what is left says
// that the task runs, and no record is left that could ever decide it. The
// letter is the proof of the death; it can be replayed.
func TestReplayOfADeathThatAFailoverLost(t *testing.T) {
	r := newRig(t)
	srv := testkit.Redis(t)
	rdb := redis.NewClient(&redis.Options{Addr: srv.Addr})
	t.Cleanup(func() { rdb.Close() }) //nolint:errcheck // only a test's
	store, err := claims.New(rdb, claims.Config{Prefix: srv.Prefix, Ledger: &ledger{}, BeatTTL: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	const owner = "w1/boot/1"
	open := func() {
		t.Helper()
		if err := store.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := store.Beat(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
	}
	r.letters(1, 2, nil)
	r.letters(3, 3, func(t *schemas.Task) { t.Kind = "once" })
	open() // its beat is soon out of date
	recs := make([]claims.Record, 3)
	for i := range recs {
		recs[i] = claims.Record{TaskID: "main-1-" + strconv.Itoa(i+1), Attempt: 1, Coord: claims.Coord{Topic: "tasks.payments", Offset: int64(i)}}
	}
	grants, err := store.Claim(t.Context(), owner, recs, nil)
	if err != nil {
		t.Fatal(err)
	}
	words := func(want int64) map[string]int64 {
		t.Helper()
		id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
		r.run(r.replayer("a", store))
		j := r.get(id)
		if j.Replayed != want {
			t.Errorf("%d letters replayed, want %d", j.Replayed, want)
		}
		words := map[string]int64{}
		for _, x := range j.Refusals {
			word, _, _ := strings.Cut(x.Why, ":")
			words[word] = x.Letters
		}
		return words
	}
	if w := words(0); w["running"] != 3 {
		t.Errorf("while they run: %v", w)
	}
	// The promoted replica has the same data under another name, less the deaths.
	if err := rdb.Set(t.Context(), srv.Prefix+"inc", "1 another-server", 0).Err(); err != nil {
		t.Fatal(err)
	}
	open()
	// Its owner still holds 2.
	held := []claims.Held{{Record: recs[1], Run: grants[1].Run}}
	if ok, err := store.Reassert(t.Context(), owner, held, nil); err != nil || !ok[0] {
		t.Fatal(ok, err)
	}
	if w := words(1); w["running"] != 1 || w["unproven"] != 1 {
		t.Errorf("after the failover: %v", w)
	}
	if n := r.count(`select count(*) from perdure.outbox where task_id = 'main-1-1' and epoch = 1`); n != 1 {
		t.Error("the letter whose death was lost did not move")
	}
}

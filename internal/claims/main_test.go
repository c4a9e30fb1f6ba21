package claims

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// memLedger is a Ledger in memory. before, if set, runs before each answer.
type memLedger struct {
	mu     sync.Mutex
	n      int64
	before func(what string) error
}

func (l *memLedger) ask(what string) error {
	if l.before != nil {
		return l.before(what)
	}
	return nil
}

func (l *memLedger) Last(context.Context) (int64, error) {
	if err := l.ask("last"); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n, nil
}

func (l *memLedger) Raise(_ context.Context, n int64) error {
	if err := l.ask("raise"); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n = max(l.n, n)
	return nil
}

// onEveryRedis runs a test on miniredis and on a real Redis of its own.
func onEveryRedis(t *testing.T, test func(t *testing.T, addr string)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) { test(t, miniredis.RunT(t).Addr()) })
	t.Run("redis", func(t *testing.T) {
		r := testkit.OwnRedis(t)
		if !r.Real {
			t.Skip("no redis-server on this machine; PERDURE_TEST_REQUIRE_REAL=1 makes this a failure")
		}
		test(t, r.Addr)
	})
}

func dial(t testing.TB, addr string) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// table is one test's claims: a store, two owners that beat, one task.
type table struct {
	*testing.T
	*Store
	rdb redis.UniversalClient
}

const (
	me    = "a/1/1"
	other = "b/1/1"
	id    = "main-1-40000" // in its source's second chunk
)

func newTable(t *testing.T, addr, prefix string) *table {
	t.Helper()
	return tableOn(t, dial(t, addr), Config{Prefix: prefix})
}

// tableOn is newTable on any client.
func tableOn(t *testing.T, rdb redis.UniversalClient, cfg Config) *table {
	t.Helper()
	cfg.Ledger, cfg.BeatTTL = &memLedger{}, time.Minute
	s, err := New(rdb, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	tb := &table{t, s, rdb}
	tb.beat(me)
	tb.beat(other)
	return tb
}

// beat shows an owner and ends the grace that its first beat begins.
func (tb *table) beat(owner string) {
	tb.Helper()
	tb.ok(tb.Beat(tb.Context(), owner))
	tb.ok(tb.rdb.Del(tb.Context(), tb.k.grace).Err())
}

func (tb *table) ok(err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// rec is a record of the task: epoch, attempt, offset.
func rec(e, a, off int) Record {
	return Record{TaskID: id, Epoch: e, Attempt: a, Coord: Coord{Topic: "tasks.q", Partition: 3, Offset: int64(off)}}
}

func (tb *table) claim(owner string, r Record) Grant {
	tb.Helper()
	g, err := tb.Claim(tb.Context(), owner, []Record{r}, nil)
	tb.ok(err)
	return g[0]
}

// run claims and insists on a grant.
func (tb *table) run(owner string, r Record) Grant {
	tb.Helper()
	g := tb.claim(owner, r)
	if g.Verdict != VerdictRun {
		tb.Fatalf("verdict %d for %+v, want a run; claim %+v", g.Verdict, r, g.Claim)
	}
	return g
}

func (tb *table) wait(owner string, run int64, next int, local bool) {
	tb.Helper()
	w, err := tb.Wait(tb.Context(), owner, []WaitOutcome{{TaskID: id, Run: run, NextAttempt: next, Local: local, Due: time.UnixMilli(7_000), History: []byte("h")}})
	tb.ok(err)
	if !w[0] {
		tb.Fatal("wait: not mine")
	}
}

func (tb *table) dead(owner string, e, a, off int, run int64) bool {
	tb.Helper()
	d, err := tb.Dead(tb.Context(), owner, []DeadOutcome{{TaskID: id, Epoch: e, Attempt: a, Coord: rec(e, a, off).Coord, Run: run, Reason: "permanent", History: []byte("h")}})
	tb.ok(err)
	return d[0]
}

func (tb *table) done(owner string, e int, run int64) DoneResult {
	tb.Helper()
	d, err := tb.Done(tb.Context(), owner, []Outcome{{TaskID: id, Epoch: e, Run: run}})
	tb.ok(err)
	return d[0]
}

func (tb *table) get() Claim {
	tb.Helper()
	c, err := tb.Get(tb.Context(), id)
	tb.ok(err)
	return c[0]
}

// want checks a verdict and the state that stands after it.
func (tb *table) want(g Grant, v Verdict, s State) {
	tb.Helper()
	if now := tb.get(); g.Verdict != v || now.State != s {
		tb.Fatalf("verdict %d, state %q; want %d, %q; claim %+v", g.Verdict, now.State, v, s, now)
	}
	if v != VerdictRun && g.Run != 0 {
		tb.Fatalf("verdict %d with run %d", v, g.Run)
	}
}

func firstN(e int, n int64) int64 { return schemas.FirstRun(e, 1) + n }

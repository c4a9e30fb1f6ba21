package claims

// A Redis that is flushed, lost, replaced; and who may go on when.

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/testkit"
)

func openStore(t *testing.T, rdb redis.UniversalClient, l Ledger) *Store {
	t.Helper()
	s, err := New(rdb, Config{Prefix: "i:", Ledger: l, BeatTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFlushedRedisGrantsNothingBeforeReassertion(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "f:")
		if n, err := tb.rdb.Exists(t.Context(), tb.k.hold).Result(); err != nil || n != 0 {
			t.Fatalf("the first life of all begins with a pause (%v)", err)
		}
		g := tb.run(me, rec(0, 1, 5))
		done := rec(0, 1, 6)
		done.TaskID = "main-1-7"
		d, err := tb.Claim(t.Context(), me, []Record{done}, nil)
		tb.ok(err)
		_, err = tb.Done(t.Context(), me, []Outcome{{TaskID: done.TaskID, Run: d[0].Run}})
		tb.ok(err)

		tb.ok(tb.rdb.FlushAll(t.Context()).Err())
		for name, call := range map[string]func() error{
			"claim": func() error { _, err := tb.Claim(t.Context(), other, []Record{rec(0, 1, 5)}, nil); return err },
			"beat":  func() error { return tb.Beat(t.Context(), me) },
			"done":  func() error { _, err := tb.Done(t.Context(), me, []Outcome{{TaskID: id, Run: g.Run}}); return err },
			"wait": func() error {
				_, err := tb.Wait(t.Context(), me, []WaitOutcome{{TaskID: id, Run: g.Run, NextAttempt: 2}})
				return err
			},
			"dead": func() error {
				_, err := tb.Dead(t.Context(), me, []DeadOutcome{{TaskID: id, Attempt: 1, Run: g.Run, Reason: "permanent"}})
				return err
			},
			"hand back": func() error { return tb.HandBack(t.Context(), me, []Hold{{TaskID: id, Run: g.Run}}) },
			"abandon":   func() error { _, err := tb.Abandon(t.Context(), me, []Hold{{TaskID: id, Run: g.Run}}); return err },
			"settled":   func() error { return tb.Settled(t.Context(), []Hold{{TaskID: id, Run: g.Run}}) },
			"re-assert": func() error {
				_, err := tb.Reassert(t.Context(), me, []Held{{Record: rec(0, 1, 5), Run: g.Run}}, nil)
				return err
			},
			"cancel": func() error { _, err := tb.Cancel(t.Context(), id); return err },
		} {
			if err := call(); !errors.Is(err, ErrLost) {
				t.Errorf("%s on a flushed Redis: %v", name, err)
			}
		}
		if keys, err := tb.rdb.Keys(t.Context(), "*").Result(); err != nil || len(keys) != 0 {
			t.Fatalf("a refused call wrote %v (%v)", keys, err)
		}

		tb.ok(tb.Open(t.Context()))
		if tb.Incarnation() != 2 {
			t.Fatalf("incarnation %d", tb.Incarnation())
		}
		tb.beat(me)
		tb.beat(other)
		if _, err := tb.Claim(t.Context(), other, []Record{rec(0, 1, 5)}, nil); !errors.Is(err, ErrPaused) {
			t.Fatalf("claimed before others could re-assert: %v", err)
		}
		for range 2 {
			held, err := tb.Reassert(t.Context(), me, []Held{{Record: rec(0, 1, 5), Run: g.Run, Crashes: 1}}, []Outcome{{TaskID: done.TaskID, Run: d[0].Run}})
			tb.ok(err)
			if !held[0] {
				t.Fatal("not mine any more")
			}
		}
		if ttl, err := tb.rdb.PTTL(t.Context(), tb.k.hold).Result(); err != nil || ttl <= 0 || ttl > tb.cfg.pause() {
			t.Fatalf("the pause ends in %v (%v)", ttl, err)
		}
		tb.ok(tb.rdb.Del(t.Context(), tb.k.hold).Err()) // as time does
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictPark, Running)
		if c := tb.get(); c.Run != g.Run || c.Crashes != 1 || c.Owner != me {
			t.Fatalf("%+v", c)
		}
		again, err := tb.Claim(t.Context(), other, []Record{done}, nil)
		tb.ok(err)
		if again[0].Verdict != VerdictAck {
			t.Fatalf("what was done runs again: %+v", again[0])
		}
		tb.silence(me)
		if h := tb.run(other, alone(0, 1, 5)); h.Run <= g.Run || h.Claim.Crashes != 2 {
			t.Fatalf("%+v after run %d", h, g.Run)
		}
	})
}

func TestWhatIsNotReassertedAfterAFailoverIsSilent(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "r:")
		raise := func() { // as a promoted replica, whose claims lack nothing here
			t.Helper()
			tb.ok(tb.rdb.Set(t.Context(), tb.k.inc, "1 another-server", 0).Err())
			tb.ok(tb.Open(t.Context()))
			tb.beat(me)
			tb.beat(other)
			tb.ok(tb.rdb.Del(t.Context(), tb.k.hold).Err())
		}
		g := tb.run(other, rec(0, 1, 5))
		raise()
		h := tb.run(me, rec(0, 1, 5)) // other beats, and does not run it any more
		if !h.InDoubt || h.Run <= g.Run || h.Claim.Crashes != 0 {
			t.Fatalf("%+v", h)
		}
		// The letter and the replay survived, the claim that says dead(0) did not.
		raise()
		r := tb.run(other, rec(1, 1, 9))
		if r.Run <= h.Run || r.Claim.Crashes != 0 {
			t.Fatalf("%+v", r)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Running)
		held, err := tb.Reassert(t.Context(), me, []Held{{Record: rec(0, 1, 5), Run: h.Run}}, nil)
		tb.ok(err)
		if held[0] {
			t.Fatal("a lower run took the claim back")
		}
		// A wait in the worker stands again, over the R whose W was lost.
		held, err = tb.Reassert(t.Context(), other, []Held{{Record: rec(1, 2, 9), Run: r.Run, Waiting: true, Due: time.UnixMilli(7_000), History: []byte("h")}}, nil)
		tb.ok(err)
		if c := tb.get(); !held[0] || c.State != Waiting || c.Attempt != 2 || c.Due.UnixMilli() != 7_000 || string(c.History) != "h" {
			t.Fatalf("%v %+v", held, c)
		}
		tb.want(tb.claim(me, rec(1, 1, 9)), VerdictWait, Waiting)
	})
}

// The trap of a Redis that stood still: when it goes on, every beat has expired.
func TestBeatsThatVanishTogetherCondemnNobody(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "v:")
		tb.run(other, rec(0, 1, 5))
		tb.silence(me)
		tb.silence(other)
		if _, err := tb.Claim(t.Context(), me, []Record{rec(0, 1, 5)}, nil); !errors.Is(err, ErrPaused) {
			t.Fatalf("claimed while its own beat was missing: %v", err)
		}
		tb.ok(tb.Beat(t.Context(), me))
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictPark, Running)
		fresh := rec(0, 1, 6)
		fresh.TaskID = "main-1-9"
		if g, err := tb.Claim(t.Context(), me, []Record{fresh}, nil); err != nil || g[0].Verdict != VerdictRun {
			t.Fatalf("what nobody holds may run: %+v %v", g, err)
		}
		tb.beat(other) // and the grace ends
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictPark, Running)
		tb.silence(other)
		tb.run(me, rec(0, 1, 5))
	})
}

func TestSilenceIsToldByRedissOwnClock(t *testing.T) {
	r := testkit.OwnRedis(t)
	rdb := dial(t, r.Addr)
	s, err := New(rdb, Config{Ledger: &memLedger{}, BeatTTL: 900 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	tb := &table{t, s, rdb}
	tb.ok(s.Open(t.Context()))
	tb.ok(s.Beat(t.Context(), me))
	tb.ok(s.Beat(t.Context(), other))
	tb.run(other, rec(0, 1, 5))
	last := time.Now() // other beats no more
	testkit.Eventually(t, 20*time.Second, func() (bool, string) {
		tb.ok(s.Beat(t.Context(), me))
		g := tb.claim(me, rec(0, 1, 5))
		if g.Verdict == VerdictRun && time.Since(last) < s.cfg.BeatTTL/2 {
			t.Fatalf("taken over after %v of silence", time.Since(last))
		}
		return g.Verdict == VerdictRun && g.InDoubt, "parked"
	})
}

func TestManyRaisersAgree(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		ledger := &memLedger{n: 5}
		var raises atomic.Int64
		ledger.before = func(what string) error {
			if what == "raise" {
				raises.Add(1)
			}
			return nil
		}
		stores := make([]*Store, 8)
		var wg sync.WaitGroup
		for i := range stores {
			rdb := dial(t, addr)
			wg.Go(func() {
				s, err := New(rdb, Config{Prefix: "m:", Ledger: ledger})
				if err == nil {
					err = s.Open(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
				stores[i] = s
			})
		}
		wg.Wait()
		for _, s := range stores {
			if s.Incarnation() != 6 {
				t.Errorf("incarnation %d", s.Incarnation())
			}
		}
		if n := raises.Load(); n != 1 {
			t.Errorf("raised %d times", n)
		}
	})
}

// A raiser sleeps between its acknowledged Raise and its write, while Redis is
// flushed, raised by another who grants a run, and flushed again.
func TestSlowRaiserCannotNameALaterLife(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		rdb := dial(t, addr)
		quick := &memLedger{}
		var other *Store
		slow := &slowLedger{memLedger: quick, asleep: func() {
			if err := rdb.FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
			other = openStore(t, dial(t, addr), quick)
			if err := rdb.FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
		}}
		s := openStore(t, dial(t, addr), slow)
		if s.Incarnation() <= other.Incarnation() {
			t.Fatalf("two lives of Redis share incarnation %d (the other's is %d)", s.Incarnation(), other.Incarnation())
		}
	})
}

// slowLedger sleeps once, after its first Raise was acknowledged.
type slowLedger struct {
	*memLedger
	once   sync.Once
	asleep func()
}

func (l *slowLedger) Raise(ctx context.Context, n int64) error {
	err := l.memLedger.Raise(ctx, n)
	l.once.Do(l.asleep)
	return err
}

func TestOpenFailsClosed(t *testing.T) {
	m := miniredis.RunT(t)
	rdb := dial(t, m.Addr())
	broken := errors.New("Kafka is away")
	for _, what := range []string{"last", "raise"} {
		l := &memLedger{before: func(asked string) error {
			if asked == what {
				return broken
			}
			return nil
		}}
		s, err := New(rdb, Config{Prefix: what, Ledger: l})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Open(t.Context()); !errors.Is(err, broken) {
			t.Errorf("%s: %v", what, err)
		}
		if m.Exists(what + "inc") {
			t.Errorf("%s: inc was written before the ledger", what)
		}
		if _, err := s.Claim(t.Context(), me, []Record{rec(0, 1, 5)}, nil); !errors.Is(err, ErrNotOpen) {
			t.Errorf("%s: claim without Open: %v", what, err)
		}
	}
	// Another raiser that never ends: Open waits as long as it may.
	s, err := New(rdb, Config{Prefix: "g:", Ledger: &memLedger{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Set("g:inc:gate", "another"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*gatePoll)
	defer cancel()
	if err := s.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("gate of another: %v", err)
	}
	m.Del("g:inc:gate") // it expired
	if err := s.Open(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.Set("g:inc", "garbage"); err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "garbage") {
		t.Errorf("foreign value: %v", err)
	}
	if s, err := New(rdb, Config{}); err != nil || !errors.Is(s.Open(t.Context()), errNoLedger) {
		t.Error("opened without a ledger", err)
	}
}

// A replica is promoted that lacks the newest claims but has `inc`.
func TestPromotedReplicaIsNoticedBeforeItsFirstVerdictCounts(t *testing.T) {
	master, replica := testkit.OwnRedis(t), testkit.OwnRedis(t)
	if !master.Real {
		t.Skip("no redis-server on this machine")
	}
	var at atomic.Value
	at.Store(master.Addr)
	rdb := redis.NewClient(&redis.Options{Addr: "failover.test:1", Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, at.Load().(string))
	}})
	t.Cleanup(func() { _ = rdb.Close() })
	second := dial(t, replica.Addr)
	host, port, _ := net.SplitHostPort(master.Addr)
	if err := second.ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		info, err := second.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up"), info
	})
	s, err := New(rdb, Config{Prefix: "p:", Ledger: &memLedger{}, BeatTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	tb := &table{t, s, rdb}
	tb.ok(s.Open(t.Context()))
	tb.beat(me)
	tb.beat(other)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		n, err := second.Exists(t.Context(), s.k.inc, s.k.beat("a/1"), s.k.beat("b/1")).Result()
		return err == nil && n == 3, "inc and beats are not replicated"
	})
	tb.ok(second.ReplicaOf(t.Context(), "NO", "ONE").Err())
	g := tb.run(me, rec(0, 1, 5)) // only the old master knows
	at.Store(replica.Addr)
	master.Kill(t)

	if grants, err := tb.Claim(t.Context(), other, []Record{rec(0, 1, 5)}, nil); !errors.Is(err, ErrLost) || len(grants) != 0 {
		t.Fatalf("the promoted replica's verdict counted: %+v, %v", grants, err)
	}
	tb.ok(tb.Open(t.Context()))
	if tb.Incarnation() != 2 {
		t.Fatalf("incarnation %d", tb.Incarnation())
	}
	tb.beat(me) // hands back what the refused claim took
	tb.beat(other)
	held, err := tb.Reassert(t.Context(), me, []Held{{Record: rec(0, 1, 5), Run: g.Run}}, nil)
	tb.ok(err)
	tb.ok(tb.rdb.Del(t.Context(), tb.k.hold).Err())
	if !held[0] {
		t.Fatal("what the refused claim took stood in the holder's way")
	}
	tb.want(tb.claim(other, rec(0, 1, 5)), VerdictPark, Running)
}

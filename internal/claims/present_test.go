package claims

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// Present says what stands in Redis, also to a store that has not opened it.
func TestPresentIsWhatRedisHoldsNow(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		for prefix, cluster := range map[string]bool{"a:": false, "b:": true, "": true, "{c}:": true} {
			rdb := dial(t, addr)
			reader, err := New(rdb, Config{Prefix: prefix, Cluster: cluster})
			if err != nil {
				t.Fatal(err)
			}
			if n, err := reader.Present(t.Context()); err != nil || n != 0 {
				t.Fatal(n, err)
			}
			s, err := New(rdb, Config{Prefix: prefix, Cluster: cluster, Ledger: &memLedger{n: 6}})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, err := reader.Present(t.Context()); err != nil || n != 7 || n != s.Incarnation() {
				t.Errorf("prefix %q: %d %v, the store opened %d", prefix, n, err, s.Incarnation())
			}
			if err := rdb.Set(t.Context(), s.k.inc, "garbage", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if n, err := reader.Present(t.Context()); err == nil {
				t.Errorf("garbage is incarnation %d", n)
			}
		}
	})
	gone := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	t.Cleanup(func() { _ = gone.Close() })
	s, err := New(gone, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Present(t.Context()); err == nil {
		t.Error("a Redis that is away has an incarnation")
	}
}

// Stale is a claim of a life before that nobody asserted: not one that runs.
func TestGetTellsAClaimOfALifeBefore(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "stale:")
		g := tb.run(me, rec(0, 1, 5))
		if c := tb.get(); c.Stale {
			t.Fatalf("%+v", c)
		}
		tb.ok(tb.rdb.Set(t.Context(), tb.k.inc, "1 another-server", 0).Err())
		tb.ok(tb.Open(t.Context()))
		if c := tb.get(); !c.Stale || c.State != Running {
			t.Fatalf("%+v", c)
		}
		ok, err := tb.Reassert(t.Context(), me, []Held{{Record: rec(0, 1, 5), Run: g.Run}}, nil)
		tb.ok(err)
		if c := tb.get(); !ok[0] || c.Stale {
			t.Fatalf("%+v", c)
		}
		tb.wait(me, g.Run, 2, true)
		if c := tb.get(); c.State != Waiting || c.Stale {
			t.Fatalf("%+v", c)
		}
		tb.ok(tb.rdb.Del(t.Context(), tb.k.inc).Err()) // lost, and nobody has opened it again
		if c := tb.get(); !c.Stale {
			t.Fatalf("%+v", c)
		}
	})
}

package claims

// Beats, removals and successors, on every Redis.

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// show beats with a line and returns what the others say, by process.
func (tb *table) show(owner string) map[string]Peer {
	tb.Helper()
	peers, err := tb.BeatAndLook(tb.Context(), owner, "line of "+owner, true)
	tb.ok(err)
	by := map[string]Peer{}
	for _, p := range peers {
		by[p.Process] = p
	}
	return by
}

func (tb *table) bury(p Peer, pause time.Duration) bool {
	tb.Helper()
	ok, err := tb.Bury(tb.Context(), "a/1", p, pause)
	tb.ok(err)
	return ok
}

func TestEachSeesTheOthersBeats(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		if got := tb.show(me); len(got) != 0 {
			t.Fatalf("%+v: the other beats and said nothing of itself", got)
		}
		tb.show(other)
		first := tb.show(me)["b/1"]
		if first.Line != "line of "+other || first.Gone || first.Beats < 1 {
			t.Fatalf("%+v", first)
		}
		if again := tb.show(me)["b/1"]; again != first {
			t.Fatalf("%+v after %+v", again, first)
		}
		tb.show(other)
		if again := tb.show(me)["b/1"]; again.Beats <= first.Beats {
			t.Fatalf("%+v after %+v", again, first)
		}
		peers, err := tb.Peers(t.Context())
		tb.ok(err)
		if len(peers) != 2 {
			t.Fatalf("%+v", peers)
		}
		tb.ok(tb.Leave(t.Context(), other))
		if got := tb.show(me); len(got) != 0 {
			t.Fatalf("%+v after it left", got)
		}
	})
}

// Living needs no Open, and leaves out who is silent or was called dead.
func TestLivingAreThoseThatBeat(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		reader, err := New(dial(t, addr), Config{Prefix: "m:"})
		tb.ok(err)
		living := func() string {
			t.Helper()
			peers, err := reader.Living(t.Context())
			tb.ok(err)
			var lines []string
			for _, p := range peers {
				if p.Beats < 1 || p.Gone {
					t.Errorf("%+v", p)
				}
				lines = append(lines, p.Process+" "+p.Line)
			}
			slices.Sort(lines)
			return strings.Join(lines, ", ")
		}
		if got := living(); got != "" {
			t.Fatalf("%q before anybody beat", got)
		}
		tb.show(me)
		tb.show(other)
		if got, want := living(), "a/1 line of "+me+", b/1 line of "+other; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if !tb.bury(tb.show(me)["b/1"], time.Millisecond) {
			t.Fatal("it was not called dead")
		}
		if got := living(); got != "a/1 line of "+me {
			t.Errorf("%q after one was called dead", got)
		}
		tb.ok(tb.rdb.Del(t.Context(), tb.k.beat("a/1")).Err())
		if got := living(); got != "" {
			t.Errorf("%q after its beat expired", got)
		}
	})
}

func TestAnExpiredBeatIsForgottenAndSaidAgain(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		tb.show(other)
		if life, err := tb.LifeOf(t.Context(), other); err != nil || life != Beats {
			t.Errorf("its life is %q: %v", life, err)
		}
		tb.ok(tb.rdb.Del(t.Context(), tb.k.beat("b/1")).Err()) // as its expiry does
		if life, err := tb.LifeOf(t.Context(), other); err != nil || life != Silent {
			t.Errorf("its life is %q: %v", life, err)
		}
		if life, err := tb.LifeOf(t.Context(), "nobody"); err == nil {
			t.Errorf("an owner that is none is %q", life)
		}
		if got := tb.show(me); len(got) != 0 {
			t.Fatalf("%+v", got)
		}
		tb.show(other)
		if got := tb.show(me); len(got) != 1 {
			t.Fatalf("%+v", got)
		}
	})
}

func TestARemovedProcessIsSilentAtOnceAndCannotComeBack(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		old := tb.run(other, rec(0, 1, 5))
		tb.show(other)
		tb.ok(tb.rdb.Set(t.Context(), tb.k.grace, "1", 0).Err()) // a newcomer's: it must not protect the dead
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictPark, Running)
		if !tb.bury(tb.show(me)["b/1"], time.Minute) {
			t.Fatal("not removed")
		}
		if life, err := tb.LifeOf(t.Context(), other); err != nil || life != Gone {
			t.Errorf("its life is %q: %v", life, err)
		}
		tb.inDoubt(tb.claim(me, rec(0, 1, 5)), old.Run+1, 1, 1)
		for range 2 {
			if err := tb.Beat(t.Context(), other); !errors.Is(err, ErrGone) {
				t.Fatalf("beat: %v", err)
			}
			if _, err := tb.Claim(t.Context(), other, []Record{rec(0, 1, 5)}, nil); !errors.Is(err, ErrGone) {
				t.Fatalf("claim: %v", err)
			}
		}
		// Its other lives are not meant.
		tb.beat("b/2/1")
		tb.want(tb.claim("b/2/1", rec(0, 1, 5)), VerdictPark, Running)
		// What it completed late is accepted.
		if r := tb.done(other, 0, old.Run); r.Mine {
			t.Fatalf("%+v", r)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Done)
	})
}

func TestWhoHasBeatenSinceIsNotRemoved(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		tb.show(other)
		seen := tb.show(me)["b/1"]
		tb.show(other)
		if tb.bury(seen, time.Minute) {
			t.Fatal("removed, though it has beaten since")
		}
		if ok, err := tb.Succeed(t.Context(), seen, false); err != nil || ok {
			t.Fatalf("succeeded: %v %v", ok, err)
		}
		tb.ok(tb.Beat(t.Context(), other))
		tb.ok(tb.rdb.Del(t.Context(), tb.k.beat("b/1")).Err())
		if tb.bury(seen, time.Minute) {
			t.Fatal("removed, though its beat has expired: nothing is left to remove")
		}
	})
}

func TestOneRemovalAtATime(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		tb.show(other)
		tb.show("c/1/1")
		peers := tb.show(me)
		tb.ok(tb.rdb.Set(t.Context(), tb.k.hold, "1", 0).Err())
		if tb.bury(peers["b/1"], time.Minute) {
			t.Fatal("removed while Redis was lost a moment ago")
		}
		tb.ok(tb.rdb.Del(t.Context(), tb.k.hold).Err())
		if !tb.bury(peers["b/1"], time.Minute) || tb.bury(peers["c/1"], time.Minute) {
			t.Fatal("want the first removed, the second not yet")
		}
		tb.ok(tb.Beat(t.Context(), "c/1/1")) // unharmed
		// The watcher died half way: another finishes, in its turn.
		begun := tb.show(me)["b/1"]
		if !begun.Gone || begun.Line != "line of "+other {
			t.Fatalf("%+v", begun)
		}
		if tb.bury(begun, time.Minute) {
			t.Fatal("two at it at once")
		}
		tb.ok(tb.rdb.Del(t.Context(), tb.k.removing).Err()) // as its expiry does
		if !tb.bury(begun, time.Minute) {
			t.Fatal("nobody may finish it")
		}
		tb.ok(tb.Forget(t.Context(), "b/1"))
		if got := tb.show(me); len(got) != 1 {
			t.Fatalf("%+v", got)
		}
		if err := tb.Beat(t.Context(), other); !errors.Is(err, ErrGone) {
			t.Fatalf("beat: %v", err)
		}
	})
}

func TestASuccessorNeedsNoLockAndLeavesNothingToRemove(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "m:")
		tb.show(other)
		tb.show("b/0/1")
		seen := tb.show(me)
		tb.show(other)
		tb.ok(tb.rdb.Set(t.Context(), tb.k.removing, "x", 0).Err())
		for _, p := range seen {
			if ok, err := tb.Succeed(t.Context(), p, true); err != nil || !ok {
				t.Fatalf("%s: %v %v", p.Process, ok, err)
			}
		}
		if got := tb.show(me); len(got) != 0 {
			t.Fatalf("%+v is left for a watcher to remove from its groups", got)
		}
		if err := tb.Beat(t.Context(), other); !errors.Is(err, ErrGone) {
			t.Fatalf("beat: %v", err)
		}
	})
}

package claims

// Answers that are lost on the way, and a Redis that is away.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/testkit"
)

// faulty loses the answers of one script while armed, or asks twice as the
// client does after a timeout.
type faulty struct {
	redis.Hook
	hash        string
	lose, twice bool
}

func (f *faulty) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *faulty) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *faulty) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if a := cmd.Args(); len(a) < 2 || a[1] != f.hash {
			return next(ctx, cmd)
		}
		if f.twice {
			if err := next(ctx, cmd); err != nil {
				return err
			}
		}
		err := next(ctx, cmd)
		if f.lose && err == nil {
			err = io.ErrUnexpectedEOF
			cmd.SetErr(err)
		}
		return err
	}
}

// forms are the two ways in which a first attempt is granted: as an entry beside
// others, and as a hash of its own.
var forms = map[string]struct {
	script *redis.Script
	rec    Record
	again  int64 // n of the run that follows a grant whose answer was lost
}{
	"entry": {startScript, rec(0, 1, 5), 1}, // nothing was started under it, and nothing of it is kept
	"hash":  {claimScript, known(rec(0, 1, 5)), 2},
}

func known(r Record) Record {
	r.Known = true
	return r
}

func onEveryForm(t *testing.T, test func(t *testing.T, addr string, script *redis.Script, r Record, again int64)) {
	t.Helper()
	onEveryRedis(t, func(t *testing.T, addr string) {
		for name, f := range forms {
			t.Run(name, func(t *testing.T) {
				rdb := dial(t, addr)
				if err := rdb.FlushAll(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
				test(t, addr, f.script, f.rec, f.again)
			})
		}
	})
}

// warm makes Redis know both scripts, so that a hook sees their hashes.
func (tb *table) warm() {
	tb.run(me, Record{TaskID: "main-1-2", Attempt: 1})
	tb.run(me, Record{TaskID: "main-1-3", Attempt: 1, Known: true})
}

func TestClaimWhoseAnswerWasLostIsHandedBackAndGrantedAgain(t *testing.T) {
	onEveryForm(t, func(t *testing.T, addr string, script *redis.Script, r Record, again int64) {
		tb := newTable(t, addr, "l:")
		tb.warm()
		f := &faulty{hash: script.Hash(), lose: true}
		tb.rdb.AddHook(f)
		if g, err := tb.Claim(t.Context(), me, []Record{r}, nil); !errors.Is(err, io.ErrUnexpectedEOF) || len(g) != 0 {
			t.Fatalf("%+v %v", g, err)
		}
		if c := tb.get(); c.State != Running || c.Owner != me {
			t.Fatalf("the test lost no answer: %+v", c)
		}
		f.lose = false
		first := tb.run(me, r) // hands back, then asks
		if first.Run != firstN(0, again) || first.InDoubt {
			t.Fatalf("%+v", first)
		}
		tb.want(tb.claim(me, r), VerdictPark, Running) // and what runs is not handed back
		tb.ok(tb.Beat(t.Context(), me))
		if c := tb.get(); c.State != Running || c.Run != first.Run {
			t.Fatalf("%+v", c)
		}
		// Its partition moves: nobody asks again, Beat hands back.
		tb.wait(me, first.Run, 2, false)
		f.hash, f.lose = claimScript.Hash(), true
		if _, err := tb.Claim(t.Context(), me, []Record{rec(0, 2, 6)}, nil); err == nil {
			t.Fatal("no error")
		}
		f.lose = false
		tb.beat(me)
		if c := tb.get(); c.State != Waiting || c.Attempt != 2 {
			t.Fatalf("%+v", c)
		}
	})
}

func TestClaimSentTwiceIsOneGrant(t *testing.T) {
	onEveryForm(t, func(t *testing.T, addr string, script *redis.Script, r Record, _ int64) {
		tb := newTable(t, addr, "t:")
		tb.warm()
		f := &faulty{hash: script.Hash(), twice: true}
		tb.rdb.AddHook(f)
		g := tb.run(me, r)
		if g.Run != firstN(0, 1) || g.Attempt != 1 || g.InDoubt {
			t.Fatalf("%+v", g)
		}
		tb.silence(me)
		tb.ok(tb.Beat(t.Context(), other))
		tb.ok(tb.rdb.Del(t.Context(), tb.k.grace).Err())
		h := tb.run(other, r)
		if h.Run != firstN(0, 2) || !h.InDoubt || h.Claim.Crashes != 1 {
			t.Fatalf("%+v", h)
		}
	})
}

func TestRedisAwayIsAnErrorNeverAVerdict(t *testing.T) {
	r := testkit.OwnRedis(t)
	tb := newTable(t, r.Addr, "a:")
	g := tb.run(me, rec(0, 1, 5))
	r.Kill(t)
	for name, call := range map[string]func() (int, error){
		"claim": func() (int, error) {
			g, err := tb.Claim(t.Context(), me, []Record{rec(0, 1, 6)}, nil)
			return len(g), err
		},
		"done": func() (int, error) {
			d, err := tb.Done(t.Context(), me, []Outcome{{TaskID: id, Run: g.Run}})
			return len(d), err
		},
		"wait": func() (int, error) {
			d, err := tb.Wait(t.Context(), me, []WaitOutcome{{TaskID: id, Run: g.Run, NextAttempt: 2}})
			return len(d), err
		},
		"dead": func() (int, error) {
			d, err := tb.Dead(t.Context(), me, []DeadOutcome{{TaskID: id, Attempt: 1, Run: g.Run, Reason: "permanent"}})
			return len(d), err
		},
		"re-assert": func() (int, error) {
			d, err := tb.Reassert(t.Context(), me, []Held{{Record: rec(0, 1, 5), Run: g.Run}}, []Outcome{{TaskID: id}})
			return len(d), err
		},
		"get":    func() (int, error) { c, err := tb.Get(t.Context(), id); return len(c), err },
		"bits":   func() (int, error) { b, err := tb.DoneBits(t.Context(), "main", 1, 0); return len(b), err },
		"cancel": func() (int, error) { c, err := tb.Cancel(t.Context(), id); return len(c.State), err },
		"beat":   func() (int, error) { return 0, tb.Beat(t.Context(), me) },
		"leave":  func() (int, error) { return 0, tb.Leave(t.Context(), me) },
		"back":   func() (int, error) { return 0, tb.HandBack(t.Context(), me, []Hold{{TaskID: id, Run: g.Run}}) },
		"open":   func() (int, error) { return 0, tb.Open(t.Context()) },
	} {
		n, err := call()
		if err == nil || n != 0 || errors.Is(err, ErrLost) || errors.Is(err, ErrPaused) {
			t.Errorf("%s: %d answers, %v", name, n, err)
		}
	}
	r.Restart(t)                                                  // it comes back empty
	testkit.Eventually(t, 20*time.Second, func() (bool, string) { // the client's pool looks once a second
		g, err := tb.Claim(t.Context(), me, []Record{rec(0, 1, 6)}, nil)
		if err == nil {
			t.Fatalf("an empty Redis granted %+v", g)
		}
		return errors.Is(err, ErrLost), err.Error()
	})
}

func TestBatchesLargerThanOneCall(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		tb := newTable(t, addr, "b:")
		const n = 2*maxBatch + 7
		var recs []Record
		var ids []string
		for i := range n {
			taskID := fmt.Sprintf("main-1-%d", ChunkBits-maxBatch+i) // over a chunk's end
			ids = append(ids, taskID)
			recs = append(recs, Record{TaskID: taskID, Attempt: 1, Coord: Coord{"t", 0, int64(i)}})
		}
		recs = append(recs, Record{TaskID: ids[0], Attempt: 1, Coord: Coord{"t", 0, n}}) // a relay's duplicate
		grants, err := tb.Claim(t.Context(), me, recs, make([]Grant, 1, 2))
		tb.ok(err)
		if len(grants) != n+2 || grants[n+1].Verdict != VerdictAck {
			t.Fatalf("%d grants, the duplicate's is %+v", len(grants), grants[len(grants)-1])
		}
		var done []Outcome
		for i, g := range grants[1 : n+1] {
			if g.Verdict != VerdictRun || g.Claim.Coord.Offset != int64(i) {
				t.Fatalf("task %d: %+v", i, g)
			}
			done = append(done, Outcome{TaskID: ids[i], Run: g.Run})
		}
		results, err := tb.Done(t.Context(), me, done)
		tb.ok(err)
		for i, r := range results {
			if !r.Mine || r.Resolve {
				t.Fatalf("task %d: %+v", i, r)
			}
		}
		claims, err := tb.Get(t.Context(), ids...)
		tb.ok(err)
		for i, c := range claims {
			if c.State != Done {
				t.Fatalf("task %d: %+v", i, c)
			}
		}
		// The bitmap as balance reads it.
		set := 0
		for chunk := range int64(3) {
			bits, err := tb.DoneBits(t.Context(), "main", 1, chunk)
			tb.ok(err)
			for i := range int64(len(bits) * 8) {
				if bits[i/8]&(0x80>>(i%8)) != 0 {
					set++
					if seq := chunk*ChunkBits + i; seq < ChunkBits-maxBatch || seq >= ChunkBits-maxBatch+n {
						t.Fatalf("seq %d is done", seq)
					}
				}
			}
		}
		if set != n {
			t.Fatalf("%d bits for %d tasks", set, n)
		}
	})
}

func TestUnusableArgumentsAreRefused(t *testing.T) {
	tb := newTable(t, testkit.Redis(t).Addr, testkit.Redis(t).Prefix)
	for _, r := range []Record{
		{TaskID: "x", Attempt: 1}, {TaskID: id}, {TaskID: id, Attempt: 1, Epoch: -1}, {TaskID: id, Attempt: 1, Epoch: maxEpoch + 1},
		{TaskID: id, Attempt: 1, Run: -1}, {TaskID: id, Attempt: 1, Run: firstN(1, 1)},
	} {
		if _, err := tb.Claim(t.Context(), me, []Record{rec(0, 1, 5), r}, nil); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if c := tb.get(); c.State != None {
		t.Errorf("a refused batch claimed %+v", c)
	}
	for _, owner := range []string{"", "a", "/b/c", "a//1", "a b/1/1"} {
		if err := tb.Beat(t.Context(), owner); err == nil {
			t.Errorf("owner %q beats", owner)
		}
	}
	if _, err := tb.Dead(t.Context(), me, []DeadOutcome{{TaskID: id, Attempt: 1}}); err == nil {
		t.Error("dead without a reason")
	}
	if _, err := tb.Wait(t.Context(), me, []WaitOutcome{{TaskID: id, Run: 1}}); err == nil {
		t.Error("waits for attempt 0")
	}
}

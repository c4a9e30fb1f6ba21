package claims

// The table of the protocol, a named subtest a row, on every Redis.

import (
	"fmt"
	"testing"
)

func TestTable(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		for i, row := range rows {
			t.Run(row.name, func(t *testing.T) { row.test(newTable(t, addr, fmt.Sprintf("row%d:", i))) })
		}
	})
}

var rows = []struct {
	name string
	test func(tb *table)
}{
	{"none, record: R, run", func(tb *table) {
		g := tb.claim(me, rec(0, 1, 5))
		tb.want(g, VerdictRun, Running)
		if g.Run != firstN(0, 1) || g.Attempt != 1 || g.InDoubt || g.Claim.Owner != me || g.Claim.Coord != rec(0, 1, 5).Coord {
			tb.Fatalf("%+v", g)
		}
		c := tb.get()
		if c.Owner != me || c.Run != g.Run || c.Attempt != 1 || c.Coord != g.Claim.Coord || c.Crashes != 0 {
			tb.Fatalf("stored %+v", c)
		}
	}},
	{"none, record that knows a run: a higher one", func(tb *table) {
		r := rec(0, 2, 5)
		r.Run = firstN(0, 41)
		if g := tb.run(me, r); g.Run != firstN(0, 42) {
			tb.Fatalf("run %d", g.Run)
		}
	}},
	{"none, record with a run of another incarnation: above both", func(tb *table) {
		r := rec(0, 2, 5)
		r.Run = 9 // incarnation 0
		if g := tb.run(me, r); g.Run != firstN(0, 1) {
			tb.Fatalf("run %d", g.Run)
		}
	}},
	{"any but done, record, e < E: ack, stale epoch", func(tb *table) {
		g := tb.run(other, rec(1, 1, 5))
		tb.want(tb.claim(me, rec(0, 9, 6)), VerdictAck, Running)
		tb.wait(other, g.Run, 2, false)
		tb.want(tb.claim(me, rec(0, 9, 6)), VerdictAck, Waiting)
		g = tb.run(other, rec(1, 2, 7))
		tb.dead(other, 1, 2, 7, g.Run)
		tb.want(tb.claim(me, rec(0, 9, 6)), VerdictAck, Dead)
	}},
	{"dead(E), record, e > E: R, crashes anew", func(tb *table) {
		tb.crash(1)
		g := tb.run(me, rec(0, 1, 5))
		if g.Claim.Crashes != 1 {
			tb.Fatalf("%+v", g.Claim)
		}
		tb.dead(me, 0, 1, 5, g.Run)
		h := tb.claim(me, rec(1, 1, 6))
		tb.want(h, VerdictRun, Running)
		if h.Run != firstN(1, 1) || h.Run <= g.Run || h.Claim.Crashes != 0 || h.Claim.History != nil || h.InDoubt {
			tb.Fatalf("%+v", h)
		}
	}},
	{"R or W, record, e > E: park", func(tb *table) {
		g := tb.run(other, rec(0, 1, 5))
		tb.want(tb.claim(me, rec(1, 1, 6)), VerdictPark, Running)
		tb.wait(other, g.Run, 2, false)
		tb.want(tb.claim(me, rec(1, 1, 6)), VerdictPark, Waiting)
		tb.run(other, rec(0, 2, 7))
		tb.silence(other)
		tb.want(tb.claim(me, rec(1, 1, 6)), VerdictPark, Running)
	}},
	{"R, a < A, c ≠ C: ack, stale", func(tb *table) {
		tb.run(other, rec(0, 2, 5))
		tb.want(tb.claim(me, rec(0, 1, 4)), VerdictAck, Running)
		tb.silence(other)
		tb.want(tb.claim(me, rec(0, 1, 4)), VerdictAck, Running)
	}},
	{"R, owner beats, same a, c ≠ C: ack, duplicate", func(tb *table) {
		tb.run(other, rec(0, 1, 5))
		tb.want(tb.claim(me, rec(0, 1, 6)), VerdictAck, Running)
	}},
	{"R, owner beats, a = A, c = C: park, never ack", func(tb *table) {
		g := tb.run(other, rec(0, 1, 5))
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictPark, Running)
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictPark, Running) // its own, asked again
		tb.want(tb.claim("b/1/2", rec(0, 1, 5)), VerdictPark, Running)
		if c := tb.get(); c.Run != g.Run || c.Owner != other {
			tb.Fatalf("%+v", c)
		}
	}},
	{"R, owner beats, a < A (its retry waited in the worker), c = C: park", func(tb *table) {
		g := tb.run(other, rec(0, 1, 5))
		tb.wait(other, g.Run, 2, true)
		tb.run(other, rec(0, 2, 5))
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictPark, Running)
	}},
	{"R, owner silent, a = A, c = C: in doubt, run + 1, crashes + 1", func(tb *table) {
		old := tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		tb.inDoubt(tb.claim(me, rec(0, 1, 5)), old.Run+1, 1, 1)
	}},
	{"R, owner silent, a = A, c ≠ C: in doubt, at the new coordinate", func(tb *table) {
		old := tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		g := tb.claim(me, rec(0, 1, 6))
		tb.inDoubt(g, old.Run+1, 1, 1)
		if g.Claim.Coord.Offset != 6 {
			tb.Fatalf("%+v", g.Claim)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Running) // now that one is the duplicate
	}},
	{"R, owner silent, a < A, c = C: in doubt, attempt A", func(tb *table) {
		g := tb.run(other, rec(0, 1, 5))
		tb.wait(other, g.Run, 2, true)
		old := tb.run(other, rec(0, 2, 5))
		tb.silence(other)
		tb.inDoubt(tb.claim(me, rec(0, 1, 5)), old.Run+1, 2, 1)
	}},
	{"R, owner silent, at N crashes: dead(poison), letter", func(tb *table) {
		tb.crash(SuspectCrashes)
		for n := range DefaultMaxCrashes {
			g := tb.run(other, alone(0, 1, 5))
			if g.Claim.Own != n {
				tb.Fatalf("crash %d: %+v", n, g.Claim)
			}
			tb.silence(other)
			if n+1 < DefaultMaxCrashes {
				g = tb.run(me, alone(0, 1, 5))
				tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
				tb.beat(other)
			}
		}
		g := tb.claim(me, rec(0, 1, 5))
		tb.want(g, VerdictLetter, Dead)
		if g.Claim.Reason != "poison" || g.Claim.Crashes != SuspectCrashes+DefaultMaxCrashes || g.Claim.Epoch != 0 {
			tb.Fatalf("%+v", g.Claim)
		}
	}},
	{"R, owner silent, a suspect: nothing changes until a worker runs nothing else", func(tb *table) {
		tb.crash(1)
		old := tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		for range 2 {
			g := tb.claim(me, rec(0, 1, 5))
			tb.want(g, VerdictAlone, Running)
			if g.Claim.Crashes != 1 || g.Claim.Run != old.Run || g.Claim.Owner != other {
				tb.Fatalf("%+v", g.Claim)
			}
		}
		tb.inDoubt(tb.claim(me, alone(0, 1, 5)), old.Run+1, 1, SuspectCrashes)
	}},
	{"R of a suspect, alone, its worker lives on: it is not condemned", func(tb *table) {
		tb.crash(SuspectCrashes)
		for n := range 2 * DefaultMaxCrashes {
			g := tb.run(me, alone(0, 1, 5))
			if g.Claim.Own != 0 || g.Claim.Crashes != SuspectCrashes {
				tb.Fatalf("wait %d: %+v", n, g.Claim)
			}
			tb.wait(me, g.Run, 1, true)
		}
	}},
	{"R, owner silent, once: dead(unknown), letter", func(tb *table) {
		tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		r := rec(0, 1, 5)
		r.Once = true
		g := tb.claim(me, r)
		tb.want(g, VerdictLetter, Dead)
		if g.Claim.Reason != "unknown" {
			tb.Fatalf("%+v", g.Claim)
		}
		tb.want(tb.claim(me, r), VerdictLetter, Dead)
	}},
	{"R, mine, fails: W(a+1, C), with due and history", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.wait(me, g.Run, 2, false)
		tb.wait(me, g.Run, 2, false) // the first answer was lost
		c := tb.get()
		if c.State != Waiting || c.Attempt != 2 || c.Run != g.Run || c.Coord != rec(0, 1, 5).Coord || c.Due.UnixMilli() != 7_000 || string(c.History) != "h" {
			tb.Fatalf("%+v", c)
		}
	}},
	{"R, mine, fails, no attempt used: W(a, C)", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.wait(me, g.Run, 1, false)
		h := tb.claim(me, rec(0, 1, 6))
		tb.want(h, VerdictRun, Running)
		if h.Attempt != 1 || h.Run != g.Run+1 {
			tb.Fatalf("%+v", h)
		}
	}},
	{"R, mine, permanent: dead(e), with reason and history", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		for range 2 { // the second time as after a lost answer
			if !tb.dead(me, 0, 1, 5, g.Run) {
				tb.Fatal("not mine")
			}
		}
		if c := tb.get(); c.State != Dead || c.Reason != "permanent" || string(c.History) != "h" || c.Run != g.Run {
			tb.Fatalf("%+v", c)
		}
	}},
	{"none, W, dead(E < e): dead(e) before a run", func(tb *table) {
		if !tb.dead(me, 0, 1, 5, 0) {
			tb.Fatal("from none")
		}
		if !tb.dead(me, 1, 1, 6, 0) {
			tb.Fatal("from dead at a lower epoch")
		}
		g := tb.run(me, rec(2, 1, 7))
		tb.wait(me, g.Run, 2, false)
		if tb.dead(me, 2, 1, 7, 0) {
			tb.Fatal("an older attempt than the one waited for")
		}
		if !tb.dead(me, 2, 2, 8, 0) {
			tb.Fatal("from W")
		}
		tb.want(tb.claim(me, rec(2, 2, 8)), VerdictLetter, Dead)
	}},
	{"R, done: no death before a run", func(tb *table) {
		g := tb.run(other, rec(0, 1, 5))
		if tb.dead(me, 0, 1, 5, 0) {
			tb.Fatal("it runs")
		}
		tb.done(other, 0, g.Run)
		if tb.dead(me, 0, 1, 5, 0) {
			tb.Fatal("it is done")
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Done)
	}},
	{"R, not mine, fails: CAS fails, nothing changes", func(tb *table) {
		old := tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		g := tb.run(me, rec(0, 1, 5))
		before := tb.get()
		for _, run := range []int64{old.Run, g.Run, old.Run - 1} {
			w, err := tb.Wait(tb.Context(), other, []WaitOutcome{{TaskID: id, Run: run, NextAttempt: 2}})
			tb.ok(err)
			if w[0] || tb.dead(other, 0, 1, 5, run) {
				tb.Fatalf("a zombie decided with run %d", run)
			}
		}
		w, err := tb.Wait(tb.Context(), me, []WaitOutcome{{TaskID: id, Run: old.Run, NextAttempt: 2}})
		tb.ok(err)
		if w[0] {
			tb.Fatal("decided with an old run")
		}
		if now := tb.get(); now.Run != before.Run || now.State != Running || now.Owner != me {
			tb.Fatalf("%+v became %+v", before, now)
		}
	}},
	{"any, handler succeeded: done", func(tb *table) {
		old := tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		g := tb.run(me, rec(0, 1, 5))
		if d := tb.done(other, 0, old.Run); d.Mine || d.Resolve {
			tb.Fatalf("zombie: %+v", d)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Done)
		if d := tb.done(me, 0, g.Run); d.Resolve {
			tb.Fatalf("second: %+v", d)
		}
		if n, err := tb.rdb.Exists(tb.Context(), tb.k.claim(id)).Result(); err != nil || n != 0 {
			tb.Fatalf("a done task keeps %d claim keys (%v)", n, err)
		}
		if ttl, err := tb.rdb.PTTL(tb.Context(), tb.k.chunk("main", 1, 1)).Result(); err != nil || ttl <= tb.cfg.Horizon/2 {
			tb.Fatalf("done bits expire in %v (%v)", ttl, err)
		}
	}},
	{"R, mine, handler succeeded: done, mine", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		if d := tb.done(me, 0, g.Run); !d.Mine || d.Resolve {
			tb.Fatalf("%+v", d)
		}
	}},
	{"dead, handler succeeded: done, resolve, also when the answer is lost", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.dead(me, 0, 1, 5, g.Run)
		for range 2 {
			if d := tb.done(me, 0, g.Run); !d.Resolve {
				tb.Fatalf("%+v", d)
			}
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Done)
	}},
	{"e > 0, handler succeeded: done, resolve", func(tb *table) {
		g := tb.run(me, rec(1, 1, 5))
		if d := tb.done(me, 1, g.Run); !d.Resolve {
			tb.Fatalf("%+v", d)
		}
	}},
	{"W(A), record, a ≥ A: R, run", func(tb *table) {
		for a := 2; a <= 3; a++ {
			g := tb.run(me, rec(0, a-1, 4+a))
			tb.wait(me, g.Run, a, false)
			h := tb.claim(other, rec(0, a, 5+a))
			tb.want(h, VerdictRun, Running)
			if h.Run != g.Run+1 || h.Attempt != a || h.InDoubt || string(h.Claim.History) != "h" {
				tb.Fatalf("%+v", h)
			}
			tb.wait(other, h.Run, a, false)
		}
	}},
	{"W(A), a < A, c = C, waits in the worker: wait, then R(A) at C", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.wait(me, g.Run, 2, true)
		h := tb.claim(other, rec(0, 1, 5))
		tb.want(h, VerdictWait, Waiting)
		if h.Claim.Attempt != 2 || h.Claim.Due.UnixMilli() != 7_000 {
			tb.Fatalf("%+v", h.Claim)
		}
		h = tb.run(other, rec(0, h.Claim.Attempt, 5))
		if h.Attempt != 2 || h.Run != g.Run+1 {
			tb.Fatalf("%+v", h)
		}
	}},
	{"W(A), a < A, c = C, retry in Kafka: produce it again", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.wait(me, g.Run, 2, false)
		h := tb.claim(other, rec(0, 1, 5))
		tb.want(h, VerdictRetry, Waiting)
		if h.Claim.Attempt != 2 || string(h.Claim.History) != "h" || h.Claim.Run != g.Run {
			tb.Fatalf("%+v", h.Claim)
		}
	}},
	{"R, a > A (a failover lost the W): park, or run when the owner is silent", func(tb *table) {
		old := tb.run(other, rec(0, 1, 5))
		tb.want(tb.claim(me, rec(0, 2, 6)), VerdictPark, Running)
		tb.silence(other)
		g := tb.claim(me, rec(0, 2, 6))
		tb.want(g, VerdictRun, Running)
		if g.Attempt != 2 || g.Run != old.Run+1 || g.Claim.Crashes != 0 || g.Claim.Coord.Offset != 6 {
			tb.Fatalf("%+v", g)
		}
	}},
	{"W(A), a < A, c ≠ C: ack, duplicate", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.wait(me, g.Run, 2, false)
		tb.want(tb.claim(other, rec(0, 1, 6)), VerdictAck, Waiting)
	}},
	{"dead(E), record, e = E: letter again, no run", func(tb *table) {
		g := tb.run(me, rec(0, 2, 5))
		tb.dead(me, 0, 2, 5, g.Run)
		for _, r := range []Record{rec(0, 2, 5), rec(0, 1, 4), rec(0, 3, 6)} {
			h := tb.claim(other, r)
			tb.want(h, VerdictLetter, Dead)
			if h.Claim.Reason != "permanent" || string(h.Claim.History) != "h" || h.Claim.Run != g.Run {
				tb.Fatalf("%+v", h.Claim)
			}
		}
	}},
	{"dead(E), replay of letter (E): the claim is the proof, unchanged", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.dead(me, 0, 1, 5, g.Run)
		// What the replayer reads, before the record of E + 1 comes and after.
		if c := tb.get(); c.State != Dead || c.Epoch != 0 || c.Run != g.Run {
			tb.Fatalf("%+v", c)
		}
		h := tb.run(me, rec(1, 1, 6))
		if c := tb.get(); c.State != Running || c.Epoch != 1 || c.Run != h.Run {
			tb.Fatalf("a second replay of letter 0 would find a proof: %+v", c)
		}
	}},
	{"none, replay asked: unproven", func(tb *table) {
		if c := tb.get(); c.State != None || c.Run != 0 {
			tb.Fatalf("%+v", c)
		}
	}},
	{"done, record: ack, or resolved again if e > 0", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.done(me, 0, g.Run)
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Done)
		tb.want(tb.claim(me, rec(0, 2, 6)), VerdictAck, Done)
		tb.want(tb.claim(me, rec(1, 1, 7)), VerdictResolve, Done)
	}},
	{"done, replay: refused by the bit", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.dead(me, 0, 1, 5, g.Run)
		tb.done(other, 0, g.Run)
		if c := tb.get(); c.State != Done {
			tb.Fatalf("%+v", c)
		}
	}},
	{"none, W, cancel: cancelled, its record is acked", func(tb *table) {
		c, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		if c.State != Cancelled {
			tb.Fatalf("%+v", c)
		}
		if ttl, err := tb.rdb.PTTL(tb.Context(), tb.k.claim(id)).Result(); err != nil || ttl >= 0 {
			tb.Fatalf("a cancelled task that may be scheduled for next year is forgotten in %v (%v)", ttl, err)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Cancelled)
		if ttl, err := tb.rdb.PTTL(tb.Context(), tb.k.claim(id)).Result(); err != nil || ttl <= 0 {
			tb.Fatalf("a cancelled task whose record came is kept for ever: %v (%v)", ttl, err)
		}
		tb.ok(tb.rdb.Del(tb.Context(), tb.k.claim(id)).Err())
		g := tb.run(me, rec(0, 1, 5))
		tb.wait(me, g.Run, 2, false)
		if c, err = tb.Cancel(tb.Context(), id); err != nil || c.State != Cancelled {
			tb.Fatalf("%+v %v", c, err)
		}
		tb.want(tb.claim(me, rec(0, 2, 6)), VerdictAck, Cancelled)
	}},
	{"R, cancel: flag, the owner decides", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		c, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		if c.State != Running || !c.Cancel || c.Run != g.Run {
			tb.Fatalf("%+v", c)
		}
		if ok, err := tb.Cancelled(tb.Context(), other, []Hold{{TaskID: id, Run: g.Run}}); err != nil || ok[0] {
			tb.Fatalf("another than the owner decided (%v)", err)
		}
		for range 2 {
			if ok, err := tb.Cancelled(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}); err != nil || !ok[0] {
				tb.Fatalf("%v %v", ok, err)
			}
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Cancelled)
	}},
	{"R, cancel, and its owner waits or goes silent: the flag stays", func(tb *table) {
		tb.run(other, rec(0, 1, 5))
		_, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		tb.silence(other)
		g := tb.run(me, rec(0, 1, 5))
		if !g.Claim.Cancel || !g.InDoubt {
			tb.Fatalf("%+v", g)
		}
		tb.wait(me, g.Run, 2, false)
		tb.want(tb.claim(me, rec(0, 2, 6)), VerdictAck, Cancelled)
	}},
	{"dead, done, cancel: unchanged", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.dead(me, 0, 1, 5, g.Run)
		if c, err := tb.Cancel(tb.Context(), id); err != nil || c.State != Dead {
			tb.Fatalf("%+v %v", c, err)
		}
		tb.done(me, 0, g.Run)
		if c, err := tb.Cancel(tb.Context(), id); err != nil || c.State != Done {
			tb.Fatalf("%+v %v", c, err)
		}
	}},
	{"R, mine, not started, hand-back: none, run kept", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.ok(tb.HandBack(tb.Context(), other, []Hold{{TaskID: id, Run: g.Run}}))
		tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run + 1}}))
		if c := tb.get(); c.State != Running {
			tb.Fatalf("handed back by another: %+v", c)
		}
		tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
		if c := tb.get(); c.State != None || c.Run != g.Run {
			tb.Fatalf("%+v", c)
		}
		h := tb.run(other, rec(0, 1, 5))
		if h.Run <= g.Run || h.InDoubt {
			tb.Fatalf("%+v", h)
		}
		if ttl, err := tb.rdb.PTTL(tb.Context(), tb.k.claim(id)).Result(); err != nil || ttl >= 0 {
			tb.Fatalf("a running claim expires in %v (%v)", ttl, err)
		}
	}},
	{"R, mine, not started, hand-back: W, with due and history", func(tb *table) {
		for _, local := range []bool{true, false} {
			g := tb.run(me, rec(0, 1, 5))
			tb.wait(me, g.Run, 2, local)
			before := tb.get()
			h := tb.run(me, rec(0, 2, 6))
			tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: h.Run}}))
			c := tb.get()
			if c.State != Waiting || c.Attempt != 2 || c.Coord != before.Coord || !c.Due.Equal(before.Due) || string(c.History) != "h" || c.Run != h.Run {
				tb.Fatalf("%+v became %+v", before, c)
			}
			want := VerdictRetry
			if local {
				want = VerdictWait
			}
			tb.want(tb.claim(me, rec(0, 1, 5)), want, Waiting)
			tb.ok(tb.rdb.Del(tb.Context(), tb.k.claim(id)).Err())
		}
	}},
	{"R, mine, not started, hand-back: dead", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		tb.dead(me, 0, 1, 5, g.Run)
		h := tb.run(me, rec(1, 1, 6))
		tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: h.Run}}))
		if c := tb.get(); c.State != Dead || c.Epoch != 0 || c.Reason != "permanent" || string(c.History) != "h" || c.Run != h.Run {
			tb.Fatalf("%+v", c)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictLetter, Dead)
		if again := tb.run(me, rec(1, 1, 6)); again.Run <= h.Run {
			tb.Fatalf("%+v", again)
		}
	}},
	{"R in doubt, mine, not started, hand-back: its crash stays counted, once", func(tb *table) {
		tb.run(other, rec(0, 1, 5))
		tb.silence(other)
		for range 5 {
			g := tb.run(me, rec(0, 1, 5))
			if g.Claim.Crashes != 1 {
				tb.Fatalf("%+v", g.Claim)
			}
			tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
		}
	}},
	{"R, mine, cancel: its owner hears of it, for this run only", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		asks := func(run int64) bool {
			got, err := tb.CancelAsked(tb.Context(), []Hold{{TaskID: "main-1-1", Run: 7}, {TaskID: id, Run: run}})
			tb.ok(err)
			if got[0] {
				tb.Fatal("a task that nobody knows is cancelled")
			}
			return got[1]
		}
		if asks(g.Run) {
			tb.Fatal("nobody asked")
		}
		_, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		if !asks(g.Run) || asks(g.Run+1) {
			tb.Fatal("the run's owner, and only it, has to hear")
		}
		tb.done(me, 0, g.Run)
		if asks(g.Run) {
			tb.Fatal("it is done")
		}
	}},
	{"R, mine, not started, cancel asked, hand-back: cancelled", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		_, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Cancelled)
	}},
	{"R, mine, cannot be stopped, abandon: in doubt though its owner beats", func(tb *table) {
		old := tb.run(me, rec(0, 1, 5))
		for range 2 {
			if ok, err := tb.Abandon(tb.Context(), me, []Hold{{TaskID: id, Run: old.Run}}); err != nil || !ok[0] {
				tb.Fatalf("%v %v", ok, err)
			}
		}
		tb.inDoubt(tb.claim(me, rec(0, 1, 5)), old.Run+1, 1, 1)
		w, err := tb.Wait(tb.Context(), me, []WaitOutcome{{TaskID: id, Run: old.Run, NextAttempt: 2}})
		tb.ok(err)
		if w[0] {
			tb.Fatal("the abandoned handler decided")
		}
		tb.done(me, 0, old.Run)
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Done)
	}},
}

// alone is rec from a worker that runs nothing else.
func alone(epoch, attempt, offset int) Record {
	r := rec(epoch, attempt, offset)
	r.Alone = true
	return r
}

// silence ends an owner's beat, as its expiry does.
func (tb *table) silence(owner string) {
	tb.Helper()
	tb.ok(tb.Leave(tb.Context(), owner))
}

// crash lets attempt 1 at offset 5 be lost n times, and leaves it waiting.
func (tb *table) crash(n int) {
	tb.Helper()
	tb.run(other, rec(0, 1, 5))
	for i := range n {
		tb.silence(other)
		g := tb.run(me, alone(0, 1, 5))
		if g.Claim.Crashes != i+1 {
			tb.Fatalf("crash %d: %+v", i+1, g.Claim)
		}
		tb.beat(other)
		tb.wait(me, g.Run, 1, false)
		if i+1 < n {
			tb.run(other, alone(0, 1, 5))
		}
	}
}

func (tb *table) inDoubt(g Grant, run int64, attempt, crashes int) {
	tb.Helper()
	tb.want(g, VerdictRun, Running)
	if !g.InDoubt || g.Run != run || g.Attempt != attempt || g.Claim.Crashes != crashes || g.Claim.Owner != me {
		tb.Fatalf("%+v", g)
	}
}

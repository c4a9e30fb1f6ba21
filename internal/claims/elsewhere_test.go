package claims

// Work that goes on elsewhere: rows of docs/decisions/0180, on every Redis.

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestWorkElsewhere(t *testing.T) {
	onEveryRedis(t, func(t *testing.T, addr string) {
		for i, row := range elsewhereRows {
			t.Run(row.name, func(t *testing.T) { row.test(newTable(t, addr, fmt.Sprintf("else%d:", i))) })
		}
	})
}

// leave lets the first attempt go on elsewhere, and returns its run.
func (tb *table) leave(local bool, silence time.Duration) int64 {
	tb.Helper()
	g := tb.run(me, rec(0, 1, 5))
	for range 2 { // its answer may be lost
		ok, err := tb.Wait(tb.Context(), me, []WaitOutcome{{TaskID: id, Run: g.Run, NextAttempt: 2, Local: local, Elsewhere: silence}})
		if err != nil || !ok[0] {
			tb.Fatalf("%v %v", ok, err)
		}
	}
	return g.Run
}

// hush is a silence that lasted too long.
func (tb *table) hush() {
	tb.Helper()
	tb.ok(tb.rdb.Del(tb.Context(), tb.k.heard(id)).Err())
}

// forget leaves nothing of the task.
func (tb *table) forget() {
	tb.Helper()
	chunk, _, err := tb.k.done(id)
	tb.ok(err)
	tb.ok(tb.rdb.Del(tb.Context(), tb.k.claim(id), tb.k.heard(id), chunk, chunk+":seen", chunk+":keyed", chunk+":runs").Err())
}

func (tb *table) hear(run int64, progress string) Heard {
	tb.Helper()
	h, err := tb.Hear(tb.Context(), Sign{TaskID: id, Run: run, Counts: time.Hour, Progress: []byte(progress)})
	tb.ok(err)
	return h
}

func (tb *table) report(run int64, failure string) (ReportAnswer, bool, Claim) {
	tb.Helper()
	a, resolve, c, err := tb.Report(tb.Context(), id, run, []byte(failure))
	tb.ok(err)
	return a, resolve, c
}

// timer is the record that sees after the work.
func timer(epoch, attempt, offset int) Record {
	r := rec(epoch, attempt, offset)
	r.Timer = true
	return r
}

var elsewhereRows = []struct {
	name string
	test func(tb *table)
}{
	{"heard of: the record is timed again", func(tb *table) {
		run := tb.leave(false, 40*time.Second)
		for range 2 {
			g := tb.claim(other, timer(0, 2, 6))
			tb.want(g, VerdictRetry, Waiting)
			if g.Claim.Attempt != 2 || g.Claim.Run != run || g.Claim.Elsewhere != 40*time.Second || g.Claim.Left <= 0 || g.Claim.Left > 40*time.Second {
				tb.Fatalf("%+v", g.Claim)
			}
		}
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictRetry, Waiting) // the source again: its timer may be missing
		tb.want(tb.claim(other, rec(0, 1, 4)), VerdictAck, Waiting)   // a duplicate of the source
	}},
	{"at its own record: waits there", func(tb *table) {
		tb.leave(true, time.Minute)
		tb.want(tb.claim(me, rec(0, 2, 5)), VerdictWait, Waiting)
		tb.want(tb.claim(other, rec(0, 1, 5)), VerdictWait, Waiting)
	}},
	{"silent: in doubt, run + 1, and no crash", func(tb *table) {
		run := tb.leave(false, time.Minute)
		tb.hush()
		g := tb.claim(me, timer(0, 2, 6))
		tb.inDoubt(g, run+1, 2, 0)
		if !g.Unheard {
			tb.Fatalf("%+v", g)
		}
		if a, _, _ := tb.report(run, "why"); a != ReportRefused {
			tb.Fatal("a failure of a run that nobody waits for any more was taken")
		}
	}},
	{"silent for as long as was said", func(tb *table) {
		run := tb.leave(false, 50*time.Second)
		for _, again := range []bool{false, true} {
			if again {
				tb.hear(run, "")
			}
			left, err := tb.rdb.PTTL(tb.Context(), tb.k.heard(id)).Result()
			if err != nil || left <= 0 || left > 50*time.Second {
				tb.Fatalf("%v %v", left, err)
			}
		}
	}},
	{"silent, once: dead(unknown), letter", func(tb *table) {
		tb.leave(false, time.Minute)
		tb.hush()
		r := timer(0, 2, 6)
		r.Once = true
		g := tb.claim(me, r)
		tb.want(g, VerdictLetter, Dead)
		if g.Claim.Reason != "unknown" || g.Claim.Attempt != 1 {
			tb.Fatalf("%+v", g.Claim)
		}
	}},
	{"Redis lost, timer: in doubt; once: dead(unknown)", func(tb *table) {
		g := tb.claim(me, timer(0, 2, 6))
		tb.want(g, VerdictRun, Running)
		if !g.InDoubt || !g.Unheard {
			tb.Fatalf("%+v", g)
		}
		tb.rdb.Del(tb.Context(), tb.k.claim(id))
		r := timer(0, 2, 6)
		r.Once = true
		tb.want(tb.claim(me, r), VerdictLetter, Dead)
	}},
	{"a sign counts for its run alone, and says how far it is", func(tb *table) {
		run := tb.leave(false, 30*time.Second)
		tb.hush()
		if tb.hear(run+1, "").Counts {
			tb.Fatal("another run's sign counts")
		}
		h := tb.hear(run, `{"done":3}`)
		if !h.Counts || h.For != 30*time.Second || h.Claim.State != Waiting {
			tb.Fatalf("%+v", h)
		}
		tb.hear(run, "") // says nothing of its progress
		tb.want(tb.claim(me, timer(0, 2, 6)), VerdictRetry, Waiting)
		p, err := tb.Progress(tb.Context(), id)
		if err != nil || string(p.Value) != `{"done":3}` || p.Run != run || time.Since(p.At).Abs() > time.Hour {
			tb.Fatalf("%+v %v", p, err)
		}
	}},
	{"a sign of a run that a worker has", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		if h := tb.hear(g.Run, `1`); !h.Counts || h.For != time.Hour || h.Claim.Owner != me {
			tb.Fatalf("%+v", h)
		}
		_, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		if h := tb.hear(g.Run, ``); !h.Claim.Cancel {
			tb.Fatalf("it does not hear of the cancel: %+v", h)
		}
		tb.done(me, 0, g.Run)
		if h := tb.hear(g.Run, ``); h.Counts || h.Claim.State != Done {
			tb.Fatalf("%+v", h)
		}
	}},
	{"a failure: whoever gets the record next has it, also after a crash", func(tb *table) {
		run := tb.leave(false, time.Minute)
		if a, _, c := tb.report(run, "why"); a != ReportTaken || c.Coord.Offset != 5 || c.Attempt != 2 {
			tb.Fatalf("%v %+v", a, c)
		}
		if a, _, _ := tb.report(run, "why"); a != ReportKnown {
			tb.Fatal("not known")
		}
		if a, _, _ := tb.report(run, "another"); a != ReportRefused {
			tb.Fatal("two different ends of one run")
		}
		if tb.hear(run, "").Counts {
			tb.Fatal("it has ended, and its sign counts")
		}
		r := timer(0, 2, 6)
		r.Once = true
		g := tb.run(other, r)
		if string(g.Claim.Report) != "why" || g.InDoubt || g.Attempt != 2 {
			tb.Fatalf("%+v", g)
		}
		tb.silence(other)
		g = tb.run(me, r)
		if string(g.Claim.Report) != "why" || g.InDoubt || g.Claim.Crashes != 0 {
			tb.Fatalf("after a crash: %+v", g)
		}
		tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
		g = tb.run(me, r)
		if string(g.Claim.Report) != "why" {
			tb.Fatalf("after a hand-back: %+v", g)
		}
		tb.wait(me, g.Run, 2, false)
		if c := tb.get(); c.Report != nil || c.Elsewhere != 0 {
			tb.Fatalf("acted on, and kept: %+v", c)
		}
	}},
	{"a success: done", func(tb *table) {
		run := tb.leave(false, time.Minute)
		if a, _, _ := tb.report(run+1, ""); a != ReportRefused {
			tb.Fatal("a run that was never granted")
		}
		if a, resolve, _ := tb.report(run, ""); a != ReportTaken || resolve {
			tb.Fatalf("%v %v", a, resolve)
		}
		if a, _, _ := tb.report(run, ""); a != ReportKnown {
			tb.Fatal("not known")
		}
		if a, _, c := tb.report(run, "why"); a != ReportRefused || c.State != Done {
			tb.Fatal("failed after it was done")
		}
		tb.want(tb.claim(me, timer(0, 2, 6)), VerdictAck, Done)
	}},
	{"a success after a takeover: done all the same", func(tb *table) {
		run := tb.leave(false, time.Minute)
		tb.hush()
		tb.run(me, timer(0, 2, 6))
		if a, _, _ := tb.report(run, ""); a != ReportTaken {
			tb.Fatal("the effect has happened, and does not count")
		}
		tb.want(tb.claim(other, timer(0, 2, 6)), VerdictAck, Done)
	}},
	{"a success after its letter: resolve, also when it is said again", func(tb *table) {
		run := tb.leave(false, time.Minute)
		tb.hush()
		r := timer(0, 2, 6)
		r.Once = true
		tb.claim(me, r)
		for i, want := range []ReportAnswer{ReportTaken, ReportKnown} {
			if a, resolve, _ := tb.report(run, ""); a != want || !resolve {
				tb.Fatalf("%d: %v %v", i, a, resolve)
			}
		}
	}},
	{"a success that Redis forgot: of an earlier life alone", func(tb *table) {
		if a, _, _ := tb.report(firstN(0, 7), ""); a != ReportRefused {
			tb.Fatal("this life of Redis would know of the run")
		}
		if a, _, _ := tb.report(7, ""); a != ReportTaken {
			tb.Fatal("a run of an earlier life")
		}
	}},
	{"cancelled: neither a sign nor a success counts", func(tb *table) {
		run := tb.leave(false, time.Minute)
		c, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		if c.State != Cancelled {
			tb.Fatalf("%+v", c)
		}
		if h := tb.hear(run, ""); h.Counts || h.Claim.State != Cancelled {
			tb.Fatalf("%+v", h)
		}
		if a, _, c := tb.report(run, ""); a != ReportRefused || c.State != Cancelled {
			tb.Fatalf("%v %+v", a, c)
		}
		tb.want(tb.claim(me, timer(0, 2, 6)), VerdictAck, Cancelled)
	}},
	{"cancel asked while a worker had it, then it goes on elsewhere: cancelled", func(tb *table) {
		g := tb.run(me, rec(0, 1, 5))
		_, err := tb.Cancel(tb.Context(), id)
		tb.ok(err)
		for range 2 {
			ok, err := tb.Wait(tb.Context(), me, []WaitOutcome{{TaskID: id, Run: g.Run, NextAttempt: 2, Elsewhere: time.Minute}})
			if err != nil || ok[0] {
				tb.Fatalf("%v %v", ok, err)
			}
		}
		if h := tb.hear(g.Run, ""); h.Counts || h.Claim.State != Cancelled {
			tb.Fatalf("%+v", h)
		}
		tb.want(tb.claim(me, rec(0, 1, 5)), VerdictAck, Cancelled)
		tb.forget()
		g = tb.run(me, rec(0, 1, 5))
		_, err = tb.Cancel(tb.Context(), id)
		tb.ok(err)
		tb.wait(me, g.Run, 2, false) // one that failed is seen to when its retry asks
	}},
	{"heard of, but its deadline has passed: granted, to die", func(tb *table) {
		tb.leave(false, time.Minute)
		r := timer(0, 2, 6)
		r.Ends, r.Once = true, true
		if g := tb.run(me, r); g.InDoubt {
			tb.Fatalf("%+v", g)
		}
	}},
	{"the deadline: dead(expired) from wherever it is", func(tb *table) {
		tb.leave(false, time.Minute)
		if !tb.dead(me, 0, 2, 6, 0) {
			tb.Fatal("it may die")
		}
		if c := tb.get(); c.Elsewhere != 0 || c.State != Dead {
			tb.Fatalf("%+v", c)
		}
	}},
	{"a wait at its record is said again after Redis was lost", func(tb *table) {
		run := tb.leave(true, time.Minute)
		tb.rdb.Del(tb.Context(), tb.k.claim(id), tb.k.heard(id))
		ok, err := tb.Reassert(tb.Context(), me, []Held{{Record: rec(0, 2, 5), Run: run, Waiting: true, Elsewhere: time.Minute}}, nil)
		if err != nil || !ok[0] {
			tb.Fatalf("%v %v", ok, err)
		}
		g := tb.claim(me, rec(0, 2, 5))
		tb.want(g, VerdictWait, Waiting)
		if g.Claim.Elsewhere != time.Minute || g.Claim.Left <= 0 {
			tb.Fatalf("%+v", g.Claim)
		}
	}},
	{"a timer whose wait a failover lost: in doubt; once: dead(unknown)", func(tb *table) {
		for what, lost := range map[string]func(){
			"R": func() {
				tb.run(me, rec(0, 1, 5))
				tb.silence(me)
			},
			"none, handed back": func() {
				g := tb.run(me, rec(0, 1, 5))
				tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
			},
			"W of the attempt": func() { tb.wait(me, tb.run(me, rec(0, 1, 5)).Run, 1, false) },
			"dead of the epoch before": func() {
				if !tb.dead(me, 0, 1, 5, tb.run(me, rec(0, 1, 5)).Run) {
					tb.Fatal("not dead")
				}
			},
		} {
			for _, once := range []bool{false, true} {
				lost()
				r := timer(0, 2, 6)
				if what == "dead of the epoch before" {
					r = timer(1, 2, 6)
				}
				r.Once = once
				g := tb.claim(other, r)
				if once && (g.Verdict != VerdictLetter || g.Claim.Reason != "unknown" || g.Claim.Attempt != 1 || g.Claim.Epoch != r.Epoch) {
					tb.Errorf("%s, once: %+v", what, g)
				}
				if !once && (g.Verdict != VerdictRun || !g.InDoubt || !g.Unheard || g.Attempt != 2) {
					tb.Errorf("%s: %+v", what, g)
				}
				tb.beat(me)
				tb.forget()
			}
		}
	}},
	{"handed back: the work goes on elsewhere still, and was silent", func(tb *table) {
		tb.leave(false, time.Minute)
		tb.hush()
		for range 2 {
			g := tb.run(me, timer(0, 2, 6))
			if !g.InDoubt || !g.Unheard {
				tb.Fatalf("%+v", g)
			}
			tb.ok(tb.HandBack(tb.Context(), me, []Hold{{TaskID: id, Run: g.Run}}))
			if c := tb.get(); c.State != Waiting || c.Elsewhere != time.Minute || c.Coord.Offset != 5 {
				tb.Fatalf("%+v", c)
			}
		}
	}},
	{"a timer that is left over does not cut a retry's wait short", func(tb *table) {
		run := tb.leave(false, time.Minute)
		tb.report(run, "why")
		g := tb.run(me, timer(0, 2, 6)) // made for the report
		tb.wait(me, g.Run, 2, false)
		g = tb.claim(other, timer(0, 2, 7))
		tb.want(g, VerdictRetry, Waiting)
		if g.Claim.Attempt != 2 || g.Claim.Elsewhere != 0 {
			tb.Fatalf("%+v", g.Claim)
		}
		if g = tb.run(other, rec(0, 2, 8)); g.InDoubt || g.Attempt != 2 {
			tb.Fatalf("%+v", g)
		}
	}},
	{"runs that cannot be", func(tb *table) {
		for _, run := range []int64{0, -1} {
			if _, err := tb.Hear(tb.Context(), Sign{TaskID: id, Run: run}); !errors.Is(err, ErrBadRun) {
				tb.Fatalf("hear %d: %v", run, err)
			}
			if _, _, _, err := tb.Report(tb.Context(), id, run, nil); !errors.Is(err, ErrBadRun) {
				tb.Fatalf("report %d: %v", run, err)
			}
		}
		if _, err := tb.Hear(tb.Context(), Sign{TaskID: "no id", Run: 1}); err == nil {
			tb.Fatal("no id")
		}
	}},
}

package claims

// Random walks through the store and the specification, step by step.

import (
	"bytes"
	cmdline "flag"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// walk drives both with the same events and compares every answer and every
// claim that stands afterwards.
type walk struct {
	t     *rapid.T
	s     *Store
	rdb   *redis.Client
	mini  *miniredis.Miniredis
	spec  spec
	tasks [2]specTask
	runs  [2][]runNo // granted so far
	lease map[runAt]held
	beats map[ownerID]bool
}

type runAt struct {
	task int
	run  runNo
}

// held is a lease and whose claim it came with: nobody else has it to pass on.
type held struct {
	*Lease
	by ownerID
}

const walkCrashes = 3

var walkOwners = []ownerID{0x11, 0x12, 0x21} // two assignments of one process, and another process

func (o ownerID) text() string {
	if o == 0 {
		return ""
	}
	return fmt.Sprintf("p%d/%d/%d", o>>4, o>>2&3, o&3)
}

func (o ownerID) proc() ownerID { return o &^ 3 }

func (r runNo) int64() int64 {
	if r == 0 {
		return 0
	}
	return schemas.FirstRun(int(r>>16), int64(r>>8&255)) + int64(r&255)
}

// A walk under -race takes two to three times as long, so there are few of them there:
// make models walks as often as rapid is asked to, without it.
func TestStoreWalksAsTheSpecification(t *testing.T) {
	if testkit.Race {
		atMost(t, 20)
	}
	mini := miniredis.RunT(t)
	rdb := dial(t, mini.Addr())
	rapid.Check(t, func(rt *rapid.T) {
		mini.FlushAll()
		ledger := &memLedger{}
		s, err := New(rdb, Config{Prefix: "w:", Ledger: ledger, BeatTTL: time.Hour, MaxCrashes: walkCrashes})
		if err != nil {
			rt.Fatal(err)
		}
		w := &walk{t: rt, s: s, rdb: rdb, mini: mini, beats: map[ownerID]bool{}, lease: map[runAt]held{}}
		w.spec = spec{maxCrashes: walkCrashes, suspect: SuspectCrashes, inc: 1, beats: func(o ownerID) bool { return w.beats[o.proc()] }}
		w.must(s.Open(t.Context()))
		for _, o := range walkOwners {
			w.beat(o)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"claim": w.claim, "again": w.claim, "wait": w.wait, "dead": w.dead, "succeed": w.succeed,
			"hand back": w.handBack, "cancel": w.cancel, "give up": w.giveUp,
			"silence": w.silence, "beat": func(rt *rapid.T) { w.beat(w.owner(rt)) },
			"failover": w.failover, "reassert": w.reassert,
			"report a failure": w.reportFailure, "report a success": w.reportSuccess, "hear": w.hear, "hush": w.hush,
			"": w.compare,
		})
	})
}

// atMost bounds rapid's checks for the rest of the test.
func atMost(t *testing.T, most int) {
	t.Helper()
	checks := cmdline.Lookup("rapid.checks").Value
	asked := checks.String()
	if n, err := strconv.Atoi(asked); err != nil || n <= most {
		return
	}
	if err := checks.Set(strconv.Itoa(most)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = checks.Set(asked) })
}

func (w *walk) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *walk) owner(rt *rapid.T) ownerID { return rapid.SampledFrom(walkOwners).Draw(rt, "owner") }

func (w *walk) task(rt *rapid.T) (int, string) {
	i := rapid.IntRange(0, len(w.tasks)-1).Draw(rt, "task")
	return i, fmt.Sprintf("main-1-%d", 32767+i) // on both sides of a chunk's end
}

// run draws a run that was granted, mostly the claim's own.
func (w *walk) run(rt *rapid.T, i int) runNo {
	if cl := w.tasks[i].cl; cl.s == 'R' && rapid.IntRange(0, 3).Draw(rt, "current") > 0 {
		return cl.run
	}
	if len(w.runs[i]) == 0 {
		return firstRun(0, 1) + 200
	}
	return rapid.SampledFrom(w.runs[i]).Draw(rt, "run")
}

// holder draws an owner, mostly the claim's own.
func (w *walk) holder(rt *rapid.T, i int) ownerID {
	if cl := w.tasks[i].cl; cl.o != 0 && rapid.IntRange(0, 3).Draw(rt, "holder") > 0 {
		return cl.o
	}
	return w.owner(rt)
}

func drawRec(rt *rapid.T) specRec {
	return specRec{
		e: rapid.Int8Range(0, 2).Draw(rt, "epoch"), a: rapid.Int8Range(1, 3).Draw(rt, "attempt"),
		c: rapid.Int8Range(0, 2).Draw(rt, "coordinate"), once: rapid.IntRange(0, 7).Draw(rt, "once") == 0, alone: rapid.Bool().Draw(rt, "alone"),
		shared: rapid.IntRange(0, 2).Draw(rt, "shared") == 0, timer: rapid.IntRange(0, 3).Draw(rt, "timer") == 0,
		ends: rapid.IntRange(0, 3).Draw(rt, "ends") == 0,
	}
}

// drawFor draws a record of the claim's epoch and near its attempt, mostly.
func (w *walk) drawFor(rt *rapid.T, i int) specRec {
	q := drawRec(rt)
	if cl := w.tasks[i].cl; cl.s != 0 && rapid.IntRange(0, 2).Draw(rt, "near") > 0 {
		q.e, q.a = cl.e, max(1, cl.a-q.a%2)
		if rapid.Bool().Draw(rt, "same coordinate") {
			q.c = cl.c
		}
	}
	return q
}

func (q specRec) record(id string) Record {
	return Record{TaskID: id, Epoch: int(q.e), Attempt: int(q.a), Run: q.run.int64(), Once: q.once, Alone: q.alone, Shared: q.shared, Timer: q.timer, Ends: q.ends, Coord: Coord{Topic: "t", Offset: int64(q.c)}}
}

func (w *walk) claim(rt *rapid.T) {
	i, id := w.task(rt)
	q, o := w.drawFor(rt, i), w.owner(rt)
	if len(w.runs[i]) > 0 && rapid.Bool().Draw(rt, "knows a run") {
		if r := rapid.SampledFrom(w.runs[i]).Draw(rt, "run of the record"); int8(r>>16) <= q.e {
			q.run = r
		}
	}
	r := q.record(id)
	before, err := w.rdb.Exists(rt.Context(), w.s.k.heard(id)).Result() // what keeps it: TestWorkElsewhere
	w.must(err)
	w.spec.heard = before == 1
	r.Known = rapid.IntRange(0, 3).Draw(rt, "known") == 0
	got, err := w.s.Claim(rt.Context(), o.text(), []Record{r}, nil)
	if !w.beats[o.proc()] {
		if err == nil {
			rt.Fatalf("claimed without a beat: %+v", got)
		}
		return
	}
	w.must(err)
	want := w.spec.record(&w.tasks[i], o, q)
	g := got[0]
	if g.Verdict != want.v || g.Run != want.run.int64() || g.InDoubt != want.inDoubt || want.v == VerdictRun && g.Attempt != int(want.a) {
		rt.Fatalf("%v asks for %+v of task %d: store %+v, spec %+v", o.text(), q, i, g, want)
	}
	if want.v == VerdictRetry || want.v == VerdictWait {
		if g.Claim.Attempt != int(want.a) {
			rt.Fatalf("attempt %d to wait for, spec %d", g.Claim.Attempt, want.a)
		}
	}
	if want.v == VerdictRun {
		for _, r := range w.runs[i] {
			if r >= want.run {
				rt.Fatalf("run %x after run %x", want.run, r)
			}
		}
		w.runs[i] = append(w.runs[i], want.run)
		w.lease[runAt{i, want.run}] = held{g.Lease, o}
	}
}

// leaseOf is mostly what the grant came with; its owner may have forgotten it.
func (w *walk) leaseOf(rt *rapid.T, i int, run runNo, o ownerID) *Lease {
	if rapid.IntRange(0, 3).Draw(rt, "lease forgotten") == 0 {
		return nil
	}
	if l := w.lease[runAt{i, run}]; l.by == o {
		return l.Lease
	}
	return nil
}

func (w *walk) wait(rt *rapid.T) {
	i, id := w.task(rt)
	o, run, local := w.holder(rt, i), w.run(rt, i), rapid.Bool().Draw(rt, "local")
	out := rapid.IntRange(0, 2).Draw(rt, "elsewhere") == 0
	next := max(1, w.tasks[i].cl.a+rapid.Int8Range(0, 1).Draw(rt, "next"))
	got, err := w.s.Wait(rt.Context(), o.text(), []WaitOutcome{{TaskID: id, Run: run.int64(), NextAttempt: int(next), Local: local, Elsewhere: elsewhere(out), Lease: w.leaseOf(rt, i, run, o)}})
	w.must(err)
	if want := w.spec.wait(&w.tasks[i], o, run, next, local, out); got[0] != want {
		rt.Fatalf("wait: store %v, spec %v", got[0], want)
	}
}

func elsewhere(out bool) time.Duration {
	if out {
		return time.Hour
	}
	return 0
}

func (w *walk) reportFailure(rt *rapid.T) {
	i, id := w.task(rt)
	run := w.waited(rt, i)
	got, _, _, err := w.s.Report(rt.Context(), id, run.int64(), []byte("why"))
	w.must(err)
	if want := w.spec.reportFailure(&w.tasks[i], run); (got != ReportRefused) != want {
		rt.Fatalf("report of a failure of run %x: store %v, spec %v", run, got, want)
	}
}

func (w *walk) reportSuccess(rt *rapid.T) {
	i, id := w.task(rt)
	if rapid.IntRange(0, 3).Draw(rt, "rarely") > 0 {
		rt.Skip("as with done")
	}
	run, wasDone := w.waited(rt, i), w.tasks[i].done
	got, resolve, _, err := w.s.Report(rt.Context(), id, run.int64(), nil)
	w.must(err)
	wantResolve, want := w.spec.reportSuccess(&w.tasks[i], run)
	if (got != ReportRefused) != want || !wasDone && resolve != wantResolve {
		rt.Fatalf("report of a success of run %x: store %v, resolve %v; spec %v %v", run, got, resolve, want, wantResolve)
	}
}

// waited draws a run, mostly the one that is waited for.
func (w *walk) waited(rt *rapid.T, i int) runNo {
	if cl := w.tasks[i].cl; cl.s == 'W' && rapid.IntRange(0, 3).Draw(rt, "waited for") > 0 {
		return cl.run
	}
	return w.run(rt, i)
}

func (w *walk) hear(rt *rapid.T) {
	i, id := w.task(rt)
	run, cl := w.waited(rt, i), w.tasks[i].cl
	got, err := w.s.Hear(rt.Context(), Sign{TaskID: id, Run: run.int64(), Counts: time.Hour})
	w.must(err)
	want := !w.tasks[i].done && cl.run == run && !cl.failed && (cl.s == 'R' || cl.s == 'W' && cl.out)
	if got.Counts != want {
		rt.Fatalf("a sign of run %x counts: %v, want %v", run, got.Counts, want)
	}
}

func (w *walk) hush(rt *rapid.T) {
	_, id := w.task(rt)
	w.must(w.rdb.Del(rt.Context(), w.s.k.heard(id)).Err())
}

func (w *walk) dead(rt *rapid.T) {
	i, id := w.task(rt)
	q, o, run := w.drawFor(rt, i), w.holder(rt, i), w.run(rt, i)
	if rapid.IntRange(0, 3).Draw(rt, "before a run") == 0 {
		run = 0
	} else if w.tasks[i].cl.s == 'R' {
		q.e = w.tasks[i].cl.e // a run ends in its own epoch
	} else {
		q.e = int8(run >> 16)
	}
	got, err := w.s.Dead(rt.Context(), o.text(), []DeadOutcome{{TaskID: id, Epoch: int(q.e), Attempt: int(q.a), Coord: q.record(id).Coord, Run: run.int64(), Reason: "permanent", Lease: w.leaseOf(rt, i, run, o)}})
	w.must(err)
	if want := w.spec.dead(&w.tasks[i], o, run, q, 0); got[0] != want {
		rt.Fatalf("dead: store %v, spec %v", got[0], want)
	}
}

func (w *walk) succeed(rt *rapid.T) {
	i, id := w.task(rt)
	if rapid.IntRange(0, 3).Draw(rt, "rarely") > 0 {
		rt.Skip("done ends a walk's interest in a task")
	}
	o, run := w.holder(rt, i), w.run(rt, i)
	wasDone := w.tasks[i].done
	got, err := w.s.Done(rt.Context(), o.text(), []Outcome{{TaskID: id, Epoch: int(run >> 16), Run: run.int64(), Lease: w.leaseOf(rt, i, run, o)}})
	w.must(err)
	resolve, mine := w.spec.succeed(&w.tasks[i], o, run, int8(run>>16))
	if !wasDone && (got[0].Resolve != resolve || got[0].Mine != mine) {
		rt.Fatalf("done: store %+v, spec %v %v", got[0], resolve, mine)
	}
}

func (w *walk) handBack(rt *rapid.T) {
	i, id := w.task(rt)
	o, run := w.holder(rt, i), w.run(rt, i)
	w.must(w.s.HandBack(rt.Context(), o.text(), []Hold{{TaskID: id, Run: run.int64(), Lease: w.leaseOf(rt, i, run, o)}}))
	w.spec.handBack(&w.tasks[i], o, run)
}

func (w *walk) cancel(rt *rapid.T) {
	i, id := w.task(rt)
	if rapid.IntRange(0, 3).Draw(rt, "rarely") > 0 {
		rt.Skip("as with done")
	}
	_, err := w.s.Cancel(rt.Context(), id)
	w.must(err)
	w.spec.cancelTask(&w.tasks[i])
}

func (w *walk) giveUp(rt *rapid.T) {
	i, id := w.task(rt)
	o, run, cancel := w.holder(rt, i), w.run(rt, i), rapid.IntRange(0, 3).Draw(rt, "cancel") == 0
	call := w.s.Abandon
	if cancel {
		call = w.s.Cancelled
	}
	got, err := call(rt.Context(), o.text(), []Hold{{TaskID: id, Run: run.int64(), Lease: w.leaseOf(rt, i, run, o)}})
	w.must(err)
	if want := w.spec.giveUp(&w.tasks[i], o, run, cancel); got[0] != want {
		rt.Fatalf("give up: store %v, spec %v", got[0], want)
	}
}

func (w *walk) silence(rt *rapid.T) {
	o := w.owner(rt)
	w.must(w.s.Leave(rt.Context(), o.text()))
	w.beats[o.proc()] = false
}

func (w *walk) beat(o ownerID) {
	w.must(w.s.Beat(w.t.Context(), o.text()))
	w.must(w.rdb.Del(w.t.Context(), w.s.k.grace).Err())
	w.beats[o.proc()] = true
}

// failover is one that lost nothing: a new incarnation over the same claims.
func (w *walk) failover(rt *rapid.T) {
	if w.spec.inc == 4 {
		rt.Skip("enough of them")
	}
	w.must(w.s.cfg.Ledger.Raise(rt.Context(), int64(w.spec.inc)+1))
	w.must(w.s.Open(rt.Context())) // finds the ledger above inc, raises once more
	w.must(w.rdb.Del(rt.Context(), w.s.k.hold).Err())
	w.spec.inc = int8(w.s.Incarnation())
}

func (w *walk) reassert(rt *rapid.T) {
	i, id := w.task(rt)
	o, run, q, waits := w.holder(rt, i), w.run(rt, i), w.drawFor(rt, i), rapid.Bool().Draw(rt, "waits")
	q.e = int8(run >> 16)
	crashes, out := rapid.Int8Range(0, 1).Draw(rt, "crashes"), rapid.Bool().Draw(rt, "elsewhere")
	got, err := w.s.Reassert(rt.Context(), o.text(), []Held{{Record: q.record(id), Run: run.int64(), Crashes: int(crashes), Waiting: waits, Elsewhere: elsewhere(waits && out)}}, nil)
	w.must(err)
	if want := w.spec.reassert(&w.tasks[i], o, run, q, crashes, waits, out); got[0] != want {
		rt.Fatalf("re-assert: store %v, spec %v", got[0], want)
	}
	w.runs[i] = append(w.runs[i], run)
}

// compare checks what stands after each step.
func (w *walk) compare(rt *rapid.T) {
	for i := range w.tasks {
		got, err := w.s.Get(rt.Context(), fmt.Sprintf("main-1-%d", 32767+i))
		w.must(err)
		if have, want := got[0], w.tasks[i].claim(); !sameClaim(have, want) {
			rt.Fatalf("task %d\nstore %+v\nspec  %+v", i, have, want)
		}
	}
}

func (t *specTask) claim() Claim {
	c := t.cl
	if t.done {
		return Claim{State: Done}
	}
	out := Claim{Run: c.run.int64(), Crashes: int(c.crashes), Own: int(c.own)}
	if c.s == 0 || c.s == 'N' {
		return out
	}
	out.State, out.Epoch, out.Attempt, out.Owner, out.Cancel = State(c.s), int(c.e), int(c.a), c.o.text(), c.cancel
	out.Coord = Coord{Topic: "t", Offset: int64(c.c)}
	if c.out {
		out.Elsewhere = time.Hour
	}
	if c.failed {
		out.Report = []byte("why")
	}
	if c.s == 'D' {
		out.Reason = map[byte]string{'u': "unknown", 'p': "poison", 0: "permanent"}[c.reason]
	}
	return out
}

// sameClaim compares what the specification knows; of a cancelled one only that
// it is.
func sameClaim(a, b Claim) bool {
	if a.State == Cancelled && b.State == Cancelled {
		return true
	}
	return a.State == b.State && a.Epoch == b.Epoch && a.Attempt == b.Attempt && a.Run == b.Run &&
		a.Owner == b.Owner && a.Coord == b.Coord && a.Crashes == b.Crashes && a.Own == b.Own && a.Cancel == b.Cancel && a.Reason == b.Reason &&
		a.Elsewhere == b.Elsewhere && bytes.Equal(a.Report, b.Report)
}

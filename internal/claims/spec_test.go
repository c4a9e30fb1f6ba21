package claims

// The claim's state machine once more, in plain Go and with no Redis: what the
// scripts are compared with (walk_test.go) and what the model checker explores
// (model_test.go). It is written from the table in the protocol, not from the
// scripts. Every type is comparable, so that a state can be a map key.

// mutation breaks one rule, to show that the checks see it.
type mutation uint8

const (
	intact             mutation = iota
	ackSameCoordinate           // R, owner beats, c = C: ack instead of park
	sourceIsDuplicate           // W, a < A, c = C: ack as if it were another copy
	waitWithoutCAS              // anyone may write W
	deadWithoutCAS              // anyone may write dead
	doneNotAbsorbing            // a record of a done task runs
	runNotRaised                // in doubt: the same run once more
	staleEpochRuns              // e < E runs
	deadWithoutLetter           // dead(E), e = E: ack without the letter
	crashesForgotten            // in doubt: crashes not counted
	silenceIgnoresBeat          // a beating owner counts as silent
	onceRunsInDoubt             // once: run again in doubt
	handBackForgets             // hand-back always to none
	cancelledRuns               // a cancelled task's record runs
	handBackDropsCrash          // hand-back of what was in doubt forgets the crash
	newEpochKeepsCount          // a replay starts with the crashes of its past
	parkForEver                 // R or W of an old incarnation, e > E: wait for a decision that was lost
	neighboursCount             // a crash beside others counts as the task's own
	suspectsInCompany           // a suspect runs beside others
	sharedIsDuplicate           // shared; R, owner beats, same a, c ≠ C: ack instead of park
	sharedIsStale               // shared; W, a < A, c ≠ C: ack instead of producing the retry again
	timerIgnoresSigns           // W elsewhere, heard of: run instead of seeing after it later
	onceRunsUnheard             // once; W elsewhere, silent: run again
	reportDropped               // the grant that is to act on a report does not say so
	failureWithoutCAS           // a failure is taken from a run that is not waited for
	lastMutationOfSpec          // those below are the worker's and the replayer's own, in model_test.go
)

// runNo is epoch, incarnation and n, eight bits each: it compares as runs do.
type runNo uint32

func firstRun(e, inc int8) runNo { return runNo(e)<<16 | runNo(inc)<<8 }

// ownerID is process << 4 | boot << 2 | assignment of it; 0 = given up.
type ownerID uint8

// specRec is a record that asks.
type specRec struct {
	e, a, c int8
	once    bool
	alone   bool
	shared  bool
	timer   bool // produced to see after work elsewhere
	ends    bool // to die without a run
	run     runNo
}

// specPrev is what stood before R.
type specPrev struct {
	s       byte
	e, a, c int8
	local   bool
	out     bool
	crashes int8
	reason  byte
}

type specClaim struct {
	s       byte // 0, 'N', 'R', 'W', 'D', 'C'
	e, a, c int8
	run     runNo
	o       ownerID
	crashes int8
	own     int8 // crashes while it ran alone
	alone   bool // R: granted to a worker that runs nothing else
	inc     int8 // R, W: incarnation it was written or re-asserted under
	local   bool
	cancel  bool
	out     bool // W: the work goes on elsewhere
	failed  bool // W, and R until it is acted on: it said that it failed
	reason  byte // D: 'u'nknown, 'p'oison, else as given
	prev    specPrev
}

type specTask struct {
	done bool
	cl   specClaim
}

// spec is the environment of the rules.
type spec struct {
	mut        mutation
	maxCrashes int8
	suspect    int8 // crashes from which on it runs alone
	inc        int8
	beats      func(ownerID) bool
	heard      bool // work elsewhere was heard of lately
}

type specAnswer struct {
	v       Verdict
	run     runNo
	a       int8
	inDoubt bool
}

func (sp *spec) nextRun(e int8, runs ...runNo) runNo {
	r := firstRun(e, sp.inc)
	for _, o := range runs {
		r = max(r, o)
	}
	return r + 1
}

// record: rows with a record.
func (sp *spec) record(t *specTask, me ownerID, q specRec) specAnswer {
	c := &t.cl
	switch {
	case t.done && sp.mut != doneNotAbsorbing:
		if q.e > 0 {
			return specAnswer{v: VerdictResolve}
		}
		return specAnswer{v: VerdictAck}
	case c.s == 'C' && sp.mut != cancelledRuns:
		return specAnswer{v: VerdictAck}
	case (c.s == 0 || c.s == 'N') && q.timer:
		return sp.unknown(c, me, q, c.crashes, c.own, specPrev{s: 'N'})
	case c.s == 0, c.s == 'N', c.s == 'C':
		return sp.grant(c, me, q, q.a, c.crashes, c.own, specPrev{s: 'N'}, false)
	case q.e < c.e && sp.mut != staleEpochRuns:
		return specAnswer{v: VerdictAck}
	case c.s == 'D' && q.e == c.e && q.timer && q.c != c.c && !q.shared:
		return specAnswer{v: VerdictAck}
	case c.s == 'D' && q.e == c.e:
		if sp.mut == deadWithoutLetter {
			return specAnswer{v: VerdictAck}
		}
		return specAnswer{v: VerdictLetter}
	case c.s == 'D':
		var crashes int8
		if sp.mut == newEpochKeepsCount {
			crashes = c.crashes
		}
		prev := specPrev{s: 'D', e: c.e, a: c.a, c: c.c, crashes: c.crashes, reason: c.reason}
		if q.timer {
			return sp.unknown(c, me, q, crashes, 0, prev)
		}
		return sp.grant(c, me, q, q.a, crashes, 0, prev, false)
	case q.e > c.e && c.inc == sp.inc || sp.mut == parkForEver && q.e > c.e:
		return specAnswer{v: VerdictPark}
	case q.e > c.e && q.timer:
		c.failed = false
		return sp.unknown(c, me, q, 0, 0, specPrev{s: 'W', a: q.a, c: q.c, local: true})
	case q.e > c.e: // E was decided, and the decision lost with the old Redis
		return sp.grant(c, me, q, q.a, 0, 0, specPrev{s: 'W', a: q.a, c: q.c, local: true}, c.s == 'R')
	case c.s == 'R':
		return sp.running(c, me, q)
	default:
		return sp.waiting(c, me, q)
	}
}

func (sp *spec) running(c *specClaim, me ownerID, q specRec) specAnswer {
	if q.a < c.a && q.c != c.c {
		return specAnswer{v: VerdictAck}
	}
	present := c.o != 0 && sp.beats(c.o)
	if present && c.inc == sp.inc && sp.mut != silenceIgnoresBeat {
		if q.a == c.a && q.c != c.c && (!q.shared || sp.mut == sharedIsDuplicate) || sp.mut == ackSameCoordinate && q.c == c.c {
			return specAnswer{v: VerdictAck}
		}
		return specAnswer{v: VerdictPark}
	}
	if q.a > c.a && q.timer {
		return sp.unknown(c, me, q, c.crashes, c.own, specPrev{s: 'W', a: q.a, c: q.c, local: true})
	}
	if q.a > c.a { // a failover lost the W
		return sp.grant(c, me, q, q.a, c.crashes, c.own, specPrev{s: 'W', a: q.a, c: q.c, local: true}, true)
	}
	if c.failed {
		return sp.grant(c, me, q, c.a, c.crashes, c.own, specPrev{s: 'W', a: c.a, c: c.c, local: true}, false)
	}
	crashes, own := c.crashes, c.own
	if !present && sp.mut != crashesForgotten {
		crashes++
		if c.alone || sp.mut == neighboursCount {
			own++
		}
	}
	reason := byte(0)
	switch {
	case q.once && sp.mut != onceRunsInDoubt:
		reason = 'u'
	case own >= sp.maxCrashes:
		reason = 'p'
	default:
		prev := specPrev{s: 'W', a: c.a, c: c.c, local: true}
		if sp.mut == handBackDropsCrash {
			prev.crashes = -1
		}
		return sp.grant(c, me, q, c.a, crashes, own, prev, true)
	}
	*c = specClaim{s: 'D', e: q.e, a: c.a, c: q.c, run: c.run, o: me, crashes: crashes, reason: reason}
	return specAnswer{v: VerdictLetter}
}

func (sp *spec) waiting(c *specClaim, me ownerID, q specRec) specAnswer {
	switch {
	case c.cancel:
		c.s, c.cancel, c.local, c.inc, c.out, c.failed = 'C', false, false, 0, false, false
		return specAnswer{v: VerdictAck}
	case c.out && !c.failed && q.a >= c.a:
		return sp.elsewhere(c, me, q)
	case q.a > c.a && q.timer && !c.failed:
		return sp.unknown(c, me, q, c.crashes, c.own, c.stands())
	case q.a == c.a && q.timer && !c.failed && q.c != c.c && !q.ends: // a retry waits
		return specAnswer{v: VerdictRetry, a: c.a}
	case q.a >= c.a:
		return sp.grant(c, me, q, q.a, c.crashes, c.own, c.stands(), false)
	case q.shared && sp.mut != sharedIsStale:
		return specAnswer{v: VerdictRetry, a: c.a}
	case q.c != c.c || sp.mut == sourceIsDuplicate:
		return specAnswer{v: VerdictAck}
	case c.local:
		return specAnswer{v: VerdictWait, a: c.a}
	default:
		return specAnswer{v: VerdictRetry, a: c.a}
	}
}

// elsewhere: W, and the work goes on outside; the record that sees after it.
func (sp *spec) elsewhere(c *specClaim, me ownerID, q specRec) specAnswer {
	switch {
	case q.ends:
		return sp.grant(c, me, q, q.a, c.crashes, c.own, c.stands(), false)
	case sp.heard && sp.mut != timerIgnoresSigns && c.local:
		return specAnswer{v: VerdictWait, a: c.a}
	case sp.heard && sp.mut != timerIgnoresSigns:
		return specAnswer{v: VerdictRetry, a: c.a}
	case q.once && sp.mut != onceRunsUnheard:
		*c = specClaim{s: 'D', e: q.e, a: c.a - 1, c: q.c, run: c.run, o: me, crashes: c.crashes, reason: 'u'}
		return specAnswer{v: VerdictLetter}
	}
	return sp.grant(c, me, q, q.a, c.crashes, c.own, c.stands(), true)
}

// unknown: the record that sees after work elsewhere, and what was known of it is lost.
func (sp *spec) unknown(c *specClaim, me ownerID, q specRec, crashes, own int8, prev specPrev) specAnswer {
	if q.once {
		*c = specClaim{s: 'D', e: q.e, a: q.a - 1, c: q.c, run: c.run, o: me, crashes: crashes, reason: 'u'}
		return specAnswer{v: VerdictLetter}
	}
	return sp.grant(c, me, q, q.a, crashes, own, prev, true)
}

// stands is W as it stands, for a hand-back.
func (c *specClaim) stands() specPrev {
	return specPrev{s: 'W', a: c.a, c: c.c, local: c.local, out: c.out}
}

func (sp *spec) grant(c *specClaim, me ownerID, q specRec, a, crashes, own int8, prev specPrev, inDoubt bool) specAnswer {
	suspect := crashes >= sp.suspect
	if suspect && !q.alone && sp.mut != suspectsInCompany {
		return specAnswer{v: VerdictAlone}
	}
	run := sp.nextRun(q.e, q.run, c.run)
	if sp.mut == runNotRaised && inDoubt {
		run = c.run
	}
	*c = specClaim{s: 'R', e: q.e, a: a, c: q.c, run: run, o: me, crashes: crashes, own: own, alone: suspect, inc: sp.inc, cancel: c.cancel, prev: prev, failed: c.failed && sp.mut != reportDropped && q.e == c.e}
	return specAnswer{v: VerdictRun, run: run, a: a, inDoubt: inDoubt}
}

func (c *specClaim) mine(me ownerID, run runNo) bool { return c.s == 'R' && c.o == me && c.run == run }

// wait: R, mine, fails, may retry; out: it did not fail, it goes on elsewhere.
func (sp *spec) wait(t *specTask, me ownerID, run runNo, next int8, local, out bool) bool {
	c := &t.cl
	if sp.mut == waitWithoutCAS && c.s != 0 {
		*c = specClaim{s: 'W', e: c.e, a: next, c: c.c, run: c.run, o: me, crashes: c.crashes, local: local}
		return true
	}
	if c.s == 'W' && c.o == me && c.run == run {
		return true // said before
	}
	if !c.mine(me, run) {
		return false
	}
	if out && c.cancel {
		c.s, c.cancel, c.inc, c.prev, c.alone, c.own, c.failed = 'C', false, 0, specPrev{}, false, 0, false
		return false
	}
	*c = specClaim{s: 'W', e: c.e, a: next, c: c.c, run: c.run, o: me, crashes: c.crashes, own: c.own, inc: c.inc, local: local, cancel: c.cancel, out: out}
	return true
}

// reportFailure: W elsewhere, of this run; answered 2 if it was said before.
func (sp *spec) reportFailure(t *specTask, run runNo) bool {
	c := &t.cl
	ok := !t.done && c.s == 'W' && c.out && c.run == run
	if sp.mut == failureWithoutCAS && !t.done && (c.s == 'W' || c.s == 'R') {
		ok = true
	}
	if ok {
		c.failed = true
	}
	return ok
}

// reportSuccess: any but cancelled, of a run that was granted.
func (sp *spec) reportSuccess(t *specTask, run runNo) (resolve, ok bool) {
	c := &t.cl
	switch {
	case t.done:
		return false, true
	case c.s == 'C', c.run != 0 && run > c.run, c.run == 0 && int8(run>>8) >= sp.inc:
		return false, false
	}
	resolve = run>>16 > 0 || c.s == 'D' || c.s != 0 && c.e > 0
	*t = specTask{done: true}
	return resolve, true
}

// dead: R, mine, gives up; or, with run 0, dies where it would have been granted.
func (sp *spec) dead(t *specTask, me ownerID, run runNo, q specRec, reason byte) bool {
	c := &t.cl
	if t.done {
		return false
	}
	ok := c.mine(me, run)
	if run == 0 {
		ok = c.s == 0 || c.s == 'N' || c.s == 'D' && q.e > c.e || c.s == 'W' && q.e == c.e && q.a >= c.a
	}
	if !ok && sp.mut != deadWithoutCAS {
		return c.s == 'D' && c.e == q.e && (run == 0 || c.run == run) // said before
	}
	crashes := c.crashes
	if q.e > c.e && c.s != 0 && c.s != 'N' {
		crashes = 0
	}
	*c = specClaim{s: 'D', e: q.e, a: q.a, c: q.c, run: c.run, o: me, crashes: crashes, reason: reason}
	return true
}

// succeed: any, handler succeeded.
func (sp *spec) succeed(t *specTask, me ownerID, run runNo, e int8) (resolve, mine bool) {
	mine = t.cl.mine(me, run)
	resolve = e > 0 || t.cl.s == 'D' || t.cl.s != 0 && t.cl.e > 0
	*t = specTask{done: true}
	return resolve, mine
}

// handBack: R, mine, not started.
func (sp *spec) handBack(t *specTask, me ownerID, run runNo) {
	c := &t.cl
	if !c.mine(me, run) {
		return
	}
	p := c.prev
	switch {
	case sp.mut == handBackForgets:
		*c = specClaim{s: 'N', run: c.run, crashes: c.crashes}
	case c.cancel:
		c.s, c.cancel, c.inc, c.prev, c.alone, c.own, c.failed = 'C', false, 0, specPrev{}, false, 0, false
	case p.s == 'W':
		*c = specClaim{s: 'W', e: c.e, a: p.a, c: p.c, run: c.run, o: c.o, crashes: c.crashes + p.crashes, own: c.own, inc: c.inc, local: p.local, out: p.out, failed: c.failed}
	case p.s == 'D':
		*c = specClaim{s: 'D', e: p.e, a: p.a, c: p.c, run: c.run, o: c.o, crashes: p.crashes, reason: p.reason}
	default:
		*c = specClaim{s: 'N', run: c.run, crashes: c.crashes, own: c.own}
	}
}

// cancelTask: none, W → cancelled; R → flag.
func (sp *spec) cancelTask(t *specTask) {
	switch c := &t.cl; {
	case t.done:
	case c.s == 'R':
		c.cancel = true
	case c.s == 0, c.s == 'N', c.s == 'W':
		c.s, c.cancel, c.local, c.inc, c.out, c.failed = 'C', false, false, 0, false, false
	}
}

// giveUp: R, mine: abandoned (in doubt at once), or the owner's answer to a cancel.
func (sp *spec) giveUp(t *specTask, me ownerID, run runNo, cancel bool) bool {
	c := &t.cl
	switch {
	case c.mine(me, run) && cancel:
		c.s, c.cancel, c.inc, c.prev, c.alone, c.own, c.failed = 'C', false, 0, specPrev{}, false, 0, false
	case c.mine(me, run):
		c.o = 0
	case c.run == run && run != 0 && (cancel && c.s == 'C' || !cancel && c.s == 'R' && c.o == 0):
	default:
		return false
	}
	return true
}

// reassert: what an owner holds, after a failover.
func (sp *spec) reassert(t *specTask, me ownerID, run runNo, q specRec, crashes int8, waits, out bool) bool {
	c := &t.cl
	want := byte('R')
	if waits {
		want = 'W'
	}
	switch {
	case t.done || c.s == 'C':
		return false
	case c.s == want && c.o == me && c.run == run:
		c.inc = sp.inc
		return true
	case run > c.run || c.s == 'N' || waits && c.mine(me, run):
		*c = specClaim{s: want, e: q.e, a: q.a, c: q.c, run: run, o: me, crashes: crashes, inc: sp.inc, local: waits, cancel: c.cancel, out: waits && out}
		return true
	}
	return false
}

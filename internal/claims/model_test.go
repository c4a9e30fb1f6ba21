package claims

// The whole protocol around one task, for the model checker in explore_test.go:
// a partition with its records, two workers, a relay and a replayer, and all
// that can happen to them. The claim's rules are those of spec_test.go.

import "hash/maphash"

// Mutations of the worker and the replayer; those before are the claim's.
const (
	ackBeforeRetry      mutation = iota + lastMutationOfSpec + 1 // acknowledge, then produce the retry
	ackBeforeLetter                                              // acknowledge, then produce the letter
	ackBeforeDone                                                // acknowledge, then say done
	ackOfLostAssignment                                          // acks count though the partition has moved
	replayWithoutProof                                           // replay whatever has a letter
	noReassertion                                                // after a failover nobody re-asserts
	ackBeforeTimer                                               // elsewhere: acknowledge, then produce the record that sees after it
	copyAfterAck                                                 // shared: acknowledge, then produce the copy
	lastMutation
)

const (
	maxRecs      = 12
	maxHandlers  = 8
	modelMaxA    = 2 // attempts
	modelSuspect = 1 // crashes from which on a task runs alone
	modelN       = 1 // crashes while alone to poison
)

type phase uint8

const (
	phGranted phase = iota + 1 // claimed, not started
	phRunning
	phRetry   // W stands in Kafka's favour: produce attempt a
	phLetter  // dead stands: produce the letter
	phResolve // done stands: produce resolved
	phAck
	phLocal     // waits in the worker for attempt a
	phHeld      // shared: in hand, not asked about yet; others may have the same record
	phCopy      // shared: produce the record once more, then acknowledge this one
	phOut       // nobody's: the work goes on elsewhere, and what it says comes by a dispatcher
	phAct       // granted to act on what was said
	phLateRetry // mutations: acknowledged already
	phLateLetter
	phLateDone
	phLateCopy
)

// handler is a record in a worker's memory.
type handler struct {
	o       ownerID
	ph      phase
	rec     int8
	e, a    int8
	crashes int8
	done    bool // its success was written
	timer   bool // phRetry: what it produces sees after work elsewhere; phLocal: it does itself
	lost    bool // taken over while it was silent: nobody counts on it
	run     runNo
}

type modelRec struct {
	e, a  int8
	acked bool
	timer bool
	run   runNo
}

// budget is what may still happen.
type budget struct {
	kills, dups, replays, losses, silences, cancels, handBacks, failovers, abandons int8

	outs   int8 // runs that go on elsewhere
	looks  int8 // times that a record finds work elsewhere going on, and is produced again
	copies int8 // shared: records that are produced once more because Kafka gave them out often
}

// world is one state. It is comparable.
type world struct {
	budget
	lossy    bool // there is or was a failover
	shared   bool // the model's
	n, nh    int8
	top      int8 // the highest epoch of any record
	recs     [maxRecs]modelRec
	handlers [maxHandlers]handler
	task     specTask
	prev     specTask // before the last write, for a failover
	inc      int8
	boot     [2]int8
	gen      [2]int8
	beats    [2]bool // of the running process
	stale    [2]bool // of the killed one
	heard    bool    // work elsewhere was heard of lately
	part     int8    // the process that has the partition
	letters  uint8   // a bit an epoch
	resolved bool

	// What no part of the system sees: for the checks.
	last     [2]runNo // the highest run granted, by epoch
	complete bool     // a handler succeeded, whatever Redis remembers
	everDone bool     // done was written, and not lost by a failover
	minA     [2]int8  // an epoch's attempts below it ended
	doubts   [2]int8  // grants in doubt of an epoch
	owns     [2]int8  // those of them that took over a run that was alone
	alone    [2]bool  // the epoch's last grant was to a worker that ran nothing else
	failed   bool     // work elsewhere said that it failed, and nobody has acted on it
	vanished [2]bool  // an epoch's handler was killed while it ran
	bad      badState // the first violation
}

type badState uint8

const (
	fine badState = iota
	badRunRepeated
	badRunAfterDone
	badAttemptAgain
	badOnceAgain
	badOverlap
	badPoisonRuns
	badPoisonEarly
	badCompany
	badIsolated
	badCancelledRuns
	badLost
	badReplayOfDone
	badNoProof
	badReportLost
	badUnheard
	badStuck
	badBound
)

var badNames = map[badState]string{
	badRunRepeated: "a run was granted twice, or a lower one", badRunAfterDone: "a run after done was known",
	badAttemptAgain: "an attempt that had ended ran again", badOnceAgain: "effects: once ran again in doubt",
	badOverlap: "granted over an owner that beats and runs it", badPoisonRuns: "poison ran once more",
	badPoisonEarly: "dead of poison after fewer crashes of its own",
	badCompany:     "a suspect ran beside others", badIsolated: "isolated without having crashed",
	badCancelledRuns: "a cancelled task ran", badLost: "lost: all acknowledged, nothing terminal",
	badReplayOfDone: "a completed task was replayed", badNoProof: "dead, and no claim to prove it",
	badReportLost: "what work elsewhere said was forgotten", badUnheard: "granted over work elsewhere that was heard of",
	badStuck: "stuck: no terminal state can be reached", badBound: "a bound of the model is too small",
}

// model says which world is explored.
type model struct {
	mut   mutation
	once  bool
	width int8 // records that an assignment has in hand at once, waits in the worker not counted
	// A share group: any process may hold any record that is not acknowledged,
	// also one that another holds (its lock ran out, and nobody told it), and go
	// on with it after others acknowledged it. There is no assignment to lose.
	shared bool
	gap    bool // between a verdict to acknowledge and the acknowledgement anything may happen
	from   budget
}

func (m *model) start() world {
	w := world{budget: m.from, n: 1, lossy: m.from.failovers > 0, shared: m.shared, inc: 1, gen: [2]int8{1, 1}, beats: [2]bool{true, true}}
	w.recs[0] = modelRec{e: 0, a: 1}
	return w
}

func (w *world) spec(m *model) spec {
	return spec{mut: m.mut, maxCrashes: modelN, suspect: modelSuspect, inc: w.inc, beats: w.beating, heard: w.heard}
}

func (w *world) beating(o ownerID) bool {
	p := o>>4 - 1
	if int8(o>>2&3) != w.boot[p] {
		return w.stale[p]
	}
	return w.beats[p]
}

// owner is the present assignment of process p.
func (w *world) owner(p int8) ownerID {
	return ownerID(p+1)<<4 | ownerID(w.boot[p])<<2 | ownerID(w.gen[p])
}

func (w *world) current(o ownerID) bool { return w.shared || o == w.owner(w.part) }

func (w *world) produce(r modelRec) {
	if w.n == maxRecs {
		w.flag(badBound)
		return
	}
	w.recs[w.n] = r
	w.n++
	w.top = max(w.top, r.e)
}

func (w *world) hold(h handler) {
	if w.nh == maxHandlers {
		w.flag(badBound)
		return
	}
	w.handlers[w.nh] = h
	w.nh++
	// In one order, whatever came first: fewer states.
	for i := w.nh - 1; i > 0 && w.handlers[i].key() < w.handlers[i-1].key(); i-- {
		w.handlers[i], w.handlers[i-1] = w.handlers[i-1], w.handlers[i]
	}
}

// tidy forgets what can matter no more, so that states which differ only by it
// are one.
func (w *world) tidy(m *model) {
	list, count := w.handlers, w.nh
	w.handlers, w.nh = [maxHandlers]handler{}, 0
	for _, h := range list[:count] {
		switch {
		case h.ph == phLetter && w.letters&(1<<h.e) != 0, h.ph == phResolve && (w.resolved || w.replays == 0):
			h.ph = phAck // another copy changes nothing
		}
		if (h.ph == phAck || h.ph == phLocal) && !w.current(h.o) && (!h.done || w.failovers == 0) && m.mut != ackOfLostAssignment {
			continue // an assignment never comes back: nothing comes of it
		}
		switch h.ph {
		case phAck, phResolve, phLetter, phLateLetter:
			h.a, h.crashes, h.timer = 0, 0, false
			if !h.done || w.failovers == 0 {
				h.run = 0
			}
		}
		h.done = h.done && w.failovers > 0
		w.hold(h)
	}
	w.tidyRecords()
	for p := range int8(2) {
		boot := func(o ownerID) bool { return o != 0 && int8(o>>4)-1 == p && int8(o>>2&3) != w.boot[p] }
		if !boot(w.task.cl.o) && !boot(w.prev.cl.o) {
			w.stale[p] = false // nobody asks whether it beats
		}
	}
	if w.failovers == 0 {
		w.prev = specTask{}
	}
	w.heard = w.heard && (w.task.cl.out || w.failovers > 0)
	if w.everDone { // every run from here on is a violation, whichever
		w.minA, w.doubts, w.vanished, w.owns, w.alone = [2]int8{}, [2]int8{}, [2]bool{}, [2]int8{}, [2]bool{}
		if !w.lossy { // nor does it matter who fails to run it
			w.kills, w.losses, w.silences = 0, 0, 0
		}
	}
}

// tidyRecords forgets acknowledged records that nothing points at, and puts the
// others in one order: what tells records apart is what points at them.
func (w *world) tidyRecords() {
	for _, c := range []*specClaim{&w.task.cl, &w.prev.cl} {
		if c.s != 'R' && c.s != 'W' {
			c.c, c.o = 0, 0
		}
		if c.s != 'R' || c.prev.s != 'W' {
			c.prev.c = 0
		}
	}
	refs := func(visit func(*int8)) {
		for _, c := range []*specClaim{&w.task.cl, &w.prev.cl} {
			if c.s == 'R' || c.s == 'W' {
				visit(&c.c)
			}
			if c.s == 'R' && c.prev.s == 'W' {
				visit(&c.prev.c)
			}
		}
		for i := range w.handlers[:w.nh] {
			if w.handlers[i].rec < maxRecs {
				visit(&w.handlers[i].rec)
			}
		}
	}
	var key [maxRecs]uint64 // what points at it, then what it is
	var bit uint64 = 1
	refs(func(at *int8) { key[*at] |= bit << 40; bit <<= 1 })
	var order [maxRecs]int8
	var n int8
	for i := range w.n {
		r := &w.recs[i]
		if !w.lossy {
			r.run = 0 // the claim knows a run as high
		}
		if r.acked {
			if key[i] == 0 {
				continue
			}
			r.a, r.run, r.timer = 0, 0, false
			key[i] |= 1 << 39
		}
		if r.timer {
			key[i] |= 1 << 38
		}
		key[i] |= uint64(r.run) | uint64(r.e)<<24 | uint64(r.a)<<28
		order[n] = i
		n++
		for j := n - 1; j > 0 && key[order[j]] < key[order[j-1]]; j-- {
			order[j], order[j-1] = order[j-1], order[j]
		}
	}
	var to [maxRecs]int8
	var recs [maxRecs]modelRec
	for i := range n {
		to[order[i]], recs[i] = i, w.recs[order[i]]
	}
	w.recs, w.n = recs, n
	refs(func(at *int8) { *at = to[*at] })
}

func (h *handler) key() uint64 {
	return uint64(h.run)<<32 | uint64(h.o)<<24 | uint64(h.rec)<<16 | uint64(h.ph)<<8 | uint64(h.a)
}

func (w *world) drop(i int8) handler {
	h := w.handlers[i]
	copy(w.handlers[i:], w.handlers[i+1:w.nh])
	w.nh--
	w.handlers[w.nh] = handler{}
	return h
}

func (w *world) flag(b badState) {
	if w.bad == fine {
		w.bad = b
	}
}

// set writes what the spec changed, and keeps what a failover may go back to.
func (w *world) set(t specTask) {
	if t != w.task && w.failovers > 0 {
		w.prev = w.task
	}
	w.task = t
}

// granted checks a grant against everything that is known.
func (w *world) granted(m *model, before specTask, g specAnswer, q specRec) {
	e := q.e
	exact := m.from.failovers == 0 // a failover loses what these are about
	// A flush may bring back a record of an epoch that was already replayed; its
	// run is then below the replay's, as its fence should be, but still new.
	if g.run <= w.last[e] || exact && g.run <= max(w.last[0], w.last[1]) {
		w.flag(badRunRepeated)
	}
	w.last[e] = max(w.last[e], g.run)
	if exact && w.failed && !w.task.cl.failed && w.task.cl.e == before.cl.e {
		w.flag(badReportLost)
	}
	if w.task.cl.failed {
		return // nothing runs under it
	}
	if exact && before.cl.out && w.heard {
		w.flag(badUnheard)
	}
	switch {
	case w.everDone:
		w.flag(badRunAfterDone)
	case before.cl.s == 'C' || before.cl.s == 'W' && before.cl.cancel:
		w.flag(badCancelledRuns)
	case exact && g.a < w.minA[e]:
		w.flag(badAttemptAgain)
	case exact && m.once && w.vanished[e]:
		w.flag(badOnceAgain)
	}
	for _, h := range w.handlers[:w.nh] {
		if exact && m.once && h.ph == phOut && h.e == e {
			w.flag(badOnceAgain)
		}
		if h.ph != phRunning {
			continue
		}
		if !h.lost && h.rec < maxRecs {
			w.flag(badOverlap)
		}
		if exact && m.once && h.e == e {
			w.flag(badOnceAgain)
		}
	}
	if g.inDoubt && !before.cl.out && before.cl.s != 0 { // silence elsewhere is no crash
		w.doubts[e]++
		if w.alone[e] {
			w.owns[e]++
		}
		if exact && w.owns[e] >= modelN {
			w.flag(badPoisonRuns)
		}
	}
	if exact && w.doubts[e] >= modelSuspect && !q.alone {
		w.flag(badCompany)
	}
	w.alone[e] = q.alone
}

// takenOver marks the handler whose claim was taken from it in its silence.
func (w *world) takenOver(before specTask) {
	for i := range w.handlers[:w.nh] {
		h := &w.handlers[i]
		if before.cl.mine(h.o, h.run) && !w.task.cl.mine(h.o, h.run) && !w.beating(h.o) {
			h.lost = true
		}
	}
}

func (w *world) encode(b []byte) []byte {
	flags := func(bits ...bool) {
		var v byte
		for i, set := range bits {
			if set {
				v |= 1 << i
			}
		}
		b = append(b, v)
	}
	run := func(r runNo) { b = append(b, byte(r>>16), byte(r>>8), byte(r)) }
	claim := func(t *specTask) {
		c := &t.cl
		flags(t.done, c.local, c.cancel, c.prev.local, c.prev.out, c.alone, c.out, c.failed)
		b = append(b, c.s, byte(c.e), byte(c.a), byte(c.c), byte(c.o), byte(c.crashes), byte(c.own), byte(c.inc), c.reason,
			c.prev.s, byte(c.prev.e), byte(c.prev.a), byte(c.prev.c), byte(c.prev.crashes), c.prev.reason)
		run(c.run)
	}
	b = append(b, byte(w.kills), byte(w.dups), byte(w.replays), byte(w.losses), byte(w.silences), byte(w.cancels),
		byte(w.handBacks), byte(w.failovers), byte(w.abandons), byte(w.copies), byte(w.outs), byte(w.looks), byte(w.n), byte(w.nh), byte(w.inc),
		byte(w.boot[0]), byte(w.boot[1]), byte(w.gen[0]), byte(w.gen[1]), byte(w.part), w.letters, byte(w.top),
		byte(w.minA[0]), byte(w.minA[1]), byte(w.doubts[0]), byte(w.doubts[1]), byte(w.owns[0]), byte(w.owns[1]), byte(w.bad))
	flags(w.beats[0], w.beats[1], w.stale[0], w.stale[1], w.resolved, w.everDone, w.vanished[0], w.vanished[1])
	flags(w.complete, w.alone[0], w.alone[1], w.heard, w.failed)
	run(w.last[0])
	run(w.last[1])
	claim(&w.task)
	if w.failovers > 0 {
		claim(&w.prev)
	}
	for _, r := range w.recs[:w.n] {
		flags(r.acked, r.timer)
		b = append(b, byte(r.e), byte(r.a))
		run(r.run)
	}
	for _, h := range w.handlers[:w.nh] {
		flags(h.done, h.lost, h.timer)
		b = append(b, byte(h.o), byte(h.ph), byte(h.rec), byte(h.e), byte(h.a), byte(h.crashes))
		run(h.run)
	}
	return b
}

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

// fingerprint stands for a state: two different ones share all 128 bits in one
// of 10^26 explorations of a million states.
func (w *world) fingerprint(buf []byte) [2]uint64 {
	buf = w.encode(buf[:0])
	return [2]uint64{maphash.Bytes(seeds[0], buf), maphash.Bytes(seeds[1], buf)}
}

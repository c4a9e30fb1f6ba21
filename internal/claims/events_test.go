package claims

// What can happen next in a world.

// next calls emit with every successor of w.
func (m *model) next(w *world, emit func(world)) {
	if m.shared {
		m.fetchShared(w, emit)
	}
	// A worker asks about what it fetched and does not hold.
	if !m.shared && w.beats[w.part] {
		o := w.owner(w.part)
		var busy int8
		for _, h := range w.handlers[:w.nh] {
			if h.o == o && h.ph != phLocal {
				busy++
			}
		}
		for i := range w.n {
			if busy >= m.width {
				break
			}
			if !w.recs[i].acked && !w.holds(o, i) {
				n := *w
				if r := w.recs[i]; n.ask(m, o, i, specRec{e: r.e, a: r.a, c: i, once: m.once, timer: r.timer, run: r.run}) {
					emit(n)
				}
			}
		}
	}
	for i := range w.nh {
		m.step(w, i, emit)
	}
	for p := range int8(2) {
		m.misfortune(w, p, emit)
	}
	m.outside(w, emit)
}

// fetchShared lets every process have every record.
func (m *model) fetchShared(w *world, emit func(world)) {
	for p := range int8(2) {
		o := w.owner(p)
		var busy int8
		for _, h := range w.handlers[:w.nh] {
			if h.o == o {
				busy++
			}
		}
		for i := range w.n {
			if busy < m.width && !w.recs[i].acked && !w.holds(o, i) {
				n := *w
				r := w.recs[i]
				n.hold(handler{o: o, ph: phHeld, rec: i, e: r.e, a: r.a, run: r.run})
				emit(n)
			}
		}
	}
}

func (w *world) holds(o ownerID, rec int8) bool {
	for _, h := range w.handlers[:w.nh] {
		if h.o == o && h.rec == rec {
			return true
		}
	}
	return false
}

// ask puts a record's question; false: nothing changed (parked).
func (w *world) ask(m *model, o ownerID, i int8, q specRec) bool {
	sp, t, before := w.spec(m), w.task, w.task
	g := sp.record(&t, o, q)
	if g.v == VerdictAlone { // the worker asks again when nothing else runs there
		if m.from.failovers == 0 && w.doubts[q.e] == 0 && before.cl.s != 'R' {
			w.flag(badIsolated)
		}
		q.alone = true
		g = sp.record(&t, o, q)
	}
	if g.v == VerdictRetry && before.cl.out && q.a >= before.cl.a {
		if w.looks == 0 {
			return false // as if it came later
		}
		w.looks--
	}
	w.set(t)
	w.takenOver(before)
	h := handler{o: o, rec: i, e: q.e, a: g.a, run: g.run, crashes: t.cl.crashes}
	switch g.v {
	case VerdictRun:
		w.granted(m, before, g, q)
		h.ph = phRunning
		if w.handBacks > 0 {
			h.ph = phGranted
		}
		if t.cl.failed {
			h.ph = phAct
		}
	case VerdictPark:
		return false
	case VerdictAck:
		h.ph = phAck
		if !m.gap {
			w.ack(m, &h)
			return true
		}
	case VerdictWait:
		h.ph, h.run, h.timer = phLocal, t.cl.run, t.cl.out
	case VerdictRetry:
		h.ph, h.run, h.timer = phRetry, t.cl.run, t.cl.out
	case VerdictLetter:
		h.ph = phLetter
		if w.task.cl.reason == 'p' && before.cl.s == 'R' && (!w.alone[q.e] || w.owns[q.e]+1 < modelN) {
			w.flag(badPoisonEarly)
		}
	case VerdictResolve:
		h.ph = phResolve
	}
	w.hold(h)
	return true
}

// step moves one handler on, in each way that it can go.
func (m *model) step(w *world, i int8, emit func(world)) {
	h := w.handlers[i]
	to := func(change func(n *world, h *handler) bool) {
		n := *w
		g := n.drop(i)
		if change(&n, &g) {
			n.hold(g)
		}
		emit(n)
	}
	switch h.ph {
	case phGranted:
		to(func(_ *world, g *handler) bool { g.ph = phRunning; return true })
		if w.handBacks > 0 {
			to(func(n *world, g *handler) bool {
				n.handBacks--
				sp, t := n.spec(m), n.task
				sp.handBack(&t, g.o, g.run)
				n.set(t)
				return false
			})
		}
	case phRunning:
		m.finish(w, h, to)
	case phOut:
		m.report(w, h, to)
	case phAct:
		m.act(h, to)
	case phRetry, phLateRetry:
		to(func(n *world, g *handler) bool {
			late := g.ph == phLateRetry
			if (m.mut == ackBeforeRetry && !g.timer || m.mut == ackBeforeTimer && g.timer) && !late {
				n.ack(m, g)
				g.ph = phLateRetry
				return true
			}
			n.produce(modelRec{e: g.e, a: g.a, run: g.run, timer: g.timer})
			g.ph, g.timer = phAck, false
			return !late
		})
	case phLetter, phLateLetter:
		to(func(n *world, g *handler) bool {
			late := g.ph == phLateLetter
			if m.mut == ackBeforeLetter && !late {
				n.ack(m, g)
				g.ph = phLateLetter
				return true
			}
			n.letters |= 1 << g.e
			g.ph = phAck
			return !late
		})
	case phLateDone:
		to(func(n *world, g *handler) bool { n.succeed(m, g); return false })
	case phResolve:
		to(func(n *world, g *handler) bool { n.resolved = true; g.ph = phAck; return true })
	case phAck:
		to(func(n *world, g *handler) bool { n.ack(m, g); return false })
	case phHeld:
		if !w.beating(h.o) {
			return
		}
		n := *w
		g := n.drop(i)
		if n.ask(m, g.o, g.rec, specRec{e: g.e, a: g.a, c: g.rec, once: m.once, shared: true, timer: n.recs[g.rec].timer, run: g.run}) {
			emit(n)
		}
		if w.copies > 0 {
			to(func(n *world, g *handler) bool { n.copies--; g.ph = phCopy; return true })
		}
	case phCopy, phLateCopy:
		to(func(n *world, g *handler) bool {
			late := g.ph == phLateCopy
			if m.mut == copyAfterAck && !late {
				n.ack(m, g)
				g.ph = phLateCopy
				return true
			}
			n.produce(modelRec{e: g.e, a: g.a, run: g.run, timer: n.recs[g.rec].timer})
			g.ph = phAck
			return !late
		})
	case phLocal:
		if !w.current(h.o) {
			to(func(*world, *handler) bool { return false })
		} else if w.beating(h.o) {
			n := *w
			g := n.drop(i)
			if n.ask(m, g.o, g.rec, specRec{e: g.e, a: g.a, c: g.rec, once: m.once, timer: n.recs[g.rec].timer, run: g.run}) {
				emit(n)
			}
		}
	}
}

func (w *world) ack(m *model, h *handler) {
	if h.rec < w.n && (w.current(h.o) || m.mut == ackOfLostAssignment) { // abandoned: none
		w.recs[h.rec].acked = true
	}
}

func (w *world) succeed(m *model, h *handler) {
	sp, t := w.spec(m), w.task
	resolve, _ := sp.succeed(&t, h.o, h.run, h.e)
	w.set(t)
	w.everDone, w.complete = true, true
	h.done, h.ph = true, phAck
	if resolve {
		h.ph = phResolve
	}
}

// finish ends a run.
func (m *model) finish(w *world, h handler, to func(func(*world, *handler) bool)) {
	to(func(n *world, g *handler) bool { // success
		if m.mut == ackBeforeDone {
			n.ack(m, g)
			g.ph = phLateDone
			return true
		}
		n.succeed(m, g)
		return true
	})
	if h.a < modelMaxA { // may retry: by Kafka, or in the worker
		for _, local := range []bool{false, true} {
			if local && m.shared {
				continue // a shared record never waits for its retry: the retry is a record of its own
			}
			to(func(n *world, g *handler) bool {
				sp, t := n.spec(m), n.task
				if !sp.wait(&t, g.o, g.run, g.a+1, local, false) {
					return false // not mine any more: dropped
				}
				n.set(t)
				g.a++
				n.minA[g.e] = max(n.minA[g.e], g.a)
				g.ph = phRetry
				if local {
					g.ph = phLocal
				}
				return true
			})
		}
	}
	m.leave(w, to)
	to(func(n *world, g *handler) bool { // permanent, exhausted
		sp, t := n.spec(m), n.task
		if !sp.dead(&t, g.o, g.run, specRec{e: g.e, a: g.a, c: g.rec}, 0) {
			return false // not mine any more: dropped
		}
		n.set(t)
		n.minA[g.e] = modelMaxA + 2 // one more than an attempt that followed work elsewhere
		g.ph = phLetter
		return true
	})
	if w.task.cl.cancel && w.task.cl.mine(h.o, h.run) { // the owner agrees to a cancel
		to(func(n *world, g *handler) bool {
			sp, t := n.spec(m), n.task
			sp.giveUp(&t, g.o, g.run, true)
			n.set(t)
			g.ph = phAck
			return true
		})
	}
	if w.abandons > 0 && w.task.cl.mine(h.o, h.run) { // cannot be stopped; goes on as nobody's
		to(func(n *world, g *handler) bool {
			n.abandons--
			sp, t := n.spec(m), n.task
			sp.giveUp(&t, g.o, g.run, false)
			n.set(t)
			n.vanished[g.e] = true
			g.rec = maxRecs // its record may be asked about again
			return true
		})
	}
}

// nobody is the owner of what goes on elsewhere: no process.
const nobody ownerID = 0x30

// leave lets a run go on elsewhere, from where it may or may not be heard of.
func (m *model) leave(w *world, to func(func(*world, *handler) bool)) {
	if w.outs == 0 {
		return
	}
	for _, local := range []bool{false, true} {
		if local && m.shared {
			continue
		}
		to(func(n *world, g *handler) bool {
			sp, t := n.spec(m), n.task
			ok := sp.wait(&t, g.o, g.run, g.a+1, local, true)
			n.set(t)
			if !ok {
				n.vanished[g.e] = true // begun, and nobody waits for it
				return false
			}
			n.outs--
			n.heard = true
			n.hold(handler{o: nobody, ph: phOut, rec: maxRecs, e: g.e, a: g.a, run: g.run})
			g.a++
			n.minA[g.e] = max(n.minA[g.e], g.a)
			g.ph, g.timer = phRetry, true
			if local {
				g.ph = phLocal
			}
			return true
		})
	}
}

// report is what comes of work elsewhere, also long after anybody waited for it.
func (m *model) report(w *world, h handler, to func(func(*world, *handler) bool)) {
	to(func(n *world, g *handler) bool { // succeeded
		sp, t := n.spec(m), n.task
		resolve, ok := sp.reportSuccess(&t, g.run)
		if !ok {
			return false
		}
		n.set(t)
		n.everDone, n.complete, n.failed = true, true, false
		g.ph = phResolve
		return resolve
	})
	for _, told := range []bool{true, false} { // failed; the dispatcher may be killed before it produces the record
		to(func(n *world, g *handler) bool {
			sp, t := n.spec(m), n.task
			if !sp.reportFailure(&t, g.run) {
				return false
			}
			mine := n.task.cl.s == 'W' && n.task.cl.run == g.run
			if !mine {
				n.flag(badReportLost) // it ends another run
			}
			n.set(t)
			n.failed, n.heard = true, false
			if told && !t.cl.local { // at its own record the worker looks by itself
				n.produce(modelRec{e: t.cl.e, a: t.cl.a, run: t.cl.run, timer: true})
			}
			return false
		})
	}
	to(func(n *world, g *handler) bool { // gone
		n.vanished[g.e] = n.vanished[g.e] || n.task.cl.run == g.run
		return false
	})
	if w.heard && w.task.cl.run == h.run { // its signs are not heard for too long
		to(func(n *world, _ *handler) bool { n.heard = false; return true })
	}
}

// act does what a report asks for: another attempt, or a letter.
func (m *model) act(h handler, to func(func(*world, *handler) bool)) {
	for _, local := range []bool{false, true} {
		if local && m.shared || h.a > modelMaxA {
			continue
		}
		to(func(n *world, g *handler) bool {
			sp, t := n.spec(m), n.task
			if !sp.wait(&t, g.o, g.run, g.a, local, false) {
				return false
			}
			n.set(t)
			n.failed = false
			g.ph = phRetry
			if local {
				g.ph = phLocal
			}
			return true
		})
	}
	to(func(n *world, g *handler) bool {
		sp, t := n.spec(m), n.task
		if !sp.dead(&t, g.o, g.run, specRec{e: g.e, a: g.a, c: g.rec}, 0) {
			return false
		}
		n.set(t)
		n.failed = false
		n.minA[g.e] = modelMaxA + 2
		g.ph = phLetter
		return true
	})
}

// misfortune is what happens to process p.
func (m *model) misfortune(w *world, p int8, emit func(world)) {
	if w.kills > 0 {
		n := *w
		n.kills--
		for i := n.nh - 1; i >= 0; i-- {
			if h := n.handlers[i]; int8(h.o>>4)-1 == p {
				if h.ph == phRunning {
					n.vanished[h.e] = true
				}
				n.drop(i)
			}
		}
		n.stale[p] = n.stale[p] || n.beats[p]
		n.boot[p]++
		n.gen[p], n.beats[p] = 1, true
		emit(n) // it comes back and keeps what it had
		if n.part == p && !m.shared {
			n.part = 1 - p
			n.gen[n.part]++
			emit(n)
		}
	}
	if w.stale[p] {
		n := *w
		n.stale[p] = false
		emit(n)
	}
	if !w.beats[p] {
		n := *w
		n.beats[p] = true
		emit(n)
	} else if w.silences > 0 { // alive, and not heard: a zombie to be
		n := *w
		n.silences--
		n.beats[p] = false
		emit(n)
	}
}

// outside is what the relay, the replayer, people and Redis do.
func (m *model) outside(w *world, emit func(world)) {
	if w.losses > 0 { // the partition moves, its old worker goes on
		n := *w
		n.losses--
		n.part = 1 - n.part
		n.gen[n.part]++
		emit(n)
	}
	if w.dups > 0 { // the relay was killed between produce and cursor
		n := *w
		n.dups--
		n.produce(modelRec{e: 0, a: 1})
		emit(n)
	}
	e := w.top
	proof := w.task.cl.s == 'D' && w.task.cl.e == e && !w.task.done
	if w.replays > 0 && w.letters&(1<<e) != 0 && !w.resolved && (proof || m.mut == replayWithoutProof) {
		n := *w
		n.replays--
		if n.everDone {
			n.flag(badReplayOfDone)
		}
		n.produce(modelRec{e: e + 1, a: 1})
		emit(n)
	}
	if w.heard && !w.out() { // nobody is left who would be
		n := *w
		n.heard = false
		emit(n)
	}
	if w.cancels > 0 {
		n := *w
		n.cancels--
		sp, t := n.spec(m), n.task
		sp.cancelTask(&t)
		n.set(t)
		n.failed = n.failed && t.cl.s != 'C'
		emit(n)
	}
	if w.failovers > 0 {
		n := *w
		n.failover(m, w.prev) // the replica lacks the last write
		emit(n)
		if w.task != (specTask{}) {
			n = *w
			n.failover(m, specTask{}) // flushed
			emit(n)
		}
	}
}

// failover leaves Redis with an older claim; those who live re-assert.
func (w *world) failover(m *model, left specTask) {
	w.failovers--
	w.task, w.prev = left, specTask{}
	w.inc++
	w.everDone = w.task.done
	if m.mut == noReassertion {
		return
	}
	for i := range w.nh {
		h := &w.handlers[i]
		sp := w.spec(m)
		switch {
		case h.done:
			sp.succeed(&w.task, h.o, h.run, h.e)
			w.everDone = true
		case h.rec == maxRecs: // abandoned
		case h.ph == phGranted, h.ph == phRunning:
			ok := sp.reassert(&w.task, h.o, h.run, specRec{e: h.e, a: h.a, c: h.rec}, h.crashes, false, false)
			h.lost = h.lost || !ok
		case h.ph == phLocal:
			sp.reassert(&w.task, h.o, h.run, specRec{e: h.e, a: h.a, c: h.rec}, h.crashes, true, h.timer)
		}
	}
}

// out reports whether anybody who works elsewhere can still be heard of.
func (w *world) out() bool {
	for _, h := range w.handlers[:w.nh] {
		if h.ph == phOut && h.run == w.task.cl.run {
			return true
		}
	}
	return false
}

// over: everything is acknowledged and nothing is in anybody's hands.
func (w *world) over() bool {
	for _, r := range w.recs[:w.n] {
		if !r.acked {
			return false
		}
	}
	return w.nh == 0
}

// terminal: the task is done, cancelled, or dead with its letter.
func (w *world) terminal() bool {
	return w.complete || w.task.cl.s == 'C' || w.letters&(1<<w.top) != 0
}

// check looks at a state by itself.
func (m *model) check(w *world) {
	acked := true
	for _, r := range w.recs[:w.n] {
		acked = acked && r.acked
	}
	if acked && !w.terminal() {
		w.flag(badLost)
	}
	if m.from.failovers == 0 && w.over() && !w.task.done && w.task.cl.s != 'C' &&
		(w.task.cl.s != 'D' || w.task.cl.e != w.top) {
		w.flag(badNoProof)
	}
}

package blocks

// The other half of the model: the index of dead letters, the one who lifts, and
// people.

func (w *world) standing(m *model) bool {
	for t := range w.letters {
		for e := range w.letters[t] {
			l := &w.letters[t][e]
			if !l.parked && (l.state == open || l.state == replaying && !m.openOnly) {
				return true
			}
		}
	}
	return false
}

// settle ends a letter.
func (w *world) settle(t, e uint8, s letterState) {
	l := &w.letters[t][e]
	l.state = s
	if !l.parked {
		w.wanted = true
	}
}

// index reads the next record of the dead-letter topic.
func (m *model) index(w *world, out emit) {
	if w.queued == 0 {
		return
	}
	n := *w
	it := w.dlq[0]
	copy(n.dlq[:], w.dlq[1:])
	n.dlq[dlqCap-1] = item{}
	n.queued--
	switch it.kind {
	case letterItem:
		l := &n.letters[it.task][it.epoch]
		if l.state != noLetter {
			break
		}
		*l = letter{state: open, parked: it.parked}
		newer := false
		for e := range uint8(epochs) {
			if e > it.epoch && n.letters[it.task][e].state != noLetter {
				newer = true
			}
			if o := n.letters[it.task][e].state; e < it.epoch && (o == open || o == replaying) {
				n.settle(it.task, e, resolved)
			}
		}
		if newer || n.known[it.task] {
			n.settle(it.task, it.epoch, resolved)
		}
		if l.state == open && l.parked && !n.standing(m) && !m.noOrphans {
			n.wanted = true
		}
	case resolvedItem:
		n.known[it.task] = true
		for e := range uint8(epochs) {
			if o := n.letters[it.task][e].state; o == open || o == replaying {
				n.settle(it.task, e, resolved)
			}
		}
	case answerItem:
		switch {
		case n.lift == asked && n.n == it.lift:
			n.lift, n.blocks = answered, it.blocks
		case n.lift != noLift && n.n == it.lift:
		case !m.noSecondEnd:
			n.put(rec{kind: endRec, lift: it.lift})
		}
	}
	out("index", n)
}

// lifter asks for a lift, and releases what was parked when it is answered.
func (m *model) lifter(w *world, out emit) {
	switch {
	case w.lift == noLift && w.wanted:
		n := *w
		n.wanted = false
		if w.standing(m) {
			out("not yet", n)
			return
		}
		n.n++
		n.lift = asked
		if m.noAnswer {
			n.lift, n.blocks = answered, n.control
		}
		n.put(rec{kind: askRec, lift: n.n})
		out("ask", n)
	case w.lift == answered:
		n := *w
		if !w.standing(m) || m.liftStanding {
			m.release(&n)
		}
		n.put(rec{kind: endRec, lift: w.n})
		n.lift, n.blocks = noLift, 0
		out("release", n)
	}
}

func (m *model) release(n *world) {
	n.put(rec{kind: liftRec, lift: n.n, names: n.blocks})
	for t := range uint8(tasks) {
		if m.backwards {
			t = tasks - 1 - t
		}
		for e := range uint8(epochs) {
			l := &n.letters[t][e]
			if !l.parked || l.state != open {
				continue
			}
			if e+1 == epochs {
				n.bad = badBound
				continue
			}
			l.state = replaying
			n.put(rec{kind: taskRec, task: t, epoch: e + 1, lift: n.n})
		}
	}
}

// people replay a letter, or discard it.
func (m *model) people(w *world, out emit) {
	for t := range uint8(tasks) {
		for e := range uint8(epochs) {
			l := w.letters[t][e]
			if l.state != open {
				continue
			}
			if w.left.discards > 0 {
				n := *w
				n.left.discards--
				n.discarded[t] = true
				n.settle(t, e, discarded)
				out("discard", n)
			}
			if l.parked || e+1 == epochs {
				continue
			}
			switch c := w.claims[t]; {
			case c.state == done:
				n := *w
				n.settle(t, e, resolved)
				out("replay refused: completed", n)
			case c.state == running && (c.owner != nobody || w.delivers(t, c.epoch)):
			default:
				n := *w
				n.letters[t][e].state = replaying
				n.put(rec{kind: taskRec, task: t, epoch: e + 1})
				out("replay", n)
			}
		}
	}
}

// tidy brings states that differ only in what nobody looks at to one form: the
// log's beginning, when everybody is past it.
func (w *world) tidy() {
	for w.end > 0 {
		if w.committed&1 == 0 {
			return
		}
		for i := range w.w {
			k := &w.w[i]
			if k.role != away && (k.acked&1 == 0 || k.hold == 1 || k.phase != idle && k.cur == 0) {
				return
			}
		}
		copy(w.log[:], w.log[1:])
		w.log[logCap-1] = rec{}
		w.end--
		w.committed >>= 1
		for i := range w.w {
			k := &w.w[i]
			if k.role == away {
				continue
			}
			k.acked >>= 1
			if k.hold > 0 {
				k.hold--
			}
			if k.phase != idle {
				k.cur--
			}
		}
		for t := range w.claims {
			c := &w.claims[t]
			if c.state == done || c.state == none {
				*c = claim{state: c.state}
			} else if c.at > 0 && c.at != 255 {
				c.at--
			} else {
				c.at = 255 // acknowledged
			}
		}
	}
}

// over reports whether everything has come to its end.
func (w *world) over() bool {
	if w.arrived < tasks || w.boxed > 0 || w.queued > 0 || w.lift != noLift || w.wanted {
		return false
	}
	for i := range w.w {
		if w.w[i].role == zombie {
			return false
		}
	}
	if w.end > 0 { // all is committed and tidied away
		return false
	}
	for t := range w.completed {
		if !w.completed[t] && !w.discarded[t] {
			return false
		}
	}
	return true
}

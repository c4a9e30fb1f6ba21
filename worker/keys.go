package worker

// order: key — one task of a key at a time, in the order of their records.

// keyLine is the queue of one key. The delivery whose turn it is may be anywhere
// in the pipeline; the others are nowhere else.
type keyLine struct {
	name  string
	queue []*delivery
	turn  *delivery // nil = nobody's, at an ask
	at    *delivery // the ask of a lift, at which the line stands; nil = none: see lift.go
}

// next is whose turn it is when nobody has it.
func (l *keyLine) next() *delivery {
	if l.at == nil {
		return l.queue[0]
	}
	for _, d := range l.queue {
		if l.at.lets(d) {
			return d
		}
	}
	return nil
}

// unask notes that d, which may be the line's ask, is gone.
func (p *pipeline) unask(l *keyLine, d *delivery) {
	if l.at == d {
		l.at = nil
		p.asks--
	}
}

// joinLine puts an ordered delivery behind those of its key and reports whether
// it is its turn.
func (p *pipeline) joinLine(d *delivery) bool {
	name := d.asg.intake.queue + "\x00" + d.task.Key
	line := p.lines[name]
	if line == nil {
		line = &keyLine{name: name}
		p.lines[name] = line
	}
	d.line = line
	line.queue = append(line.queue, d)
	if line.turn == nil {
		line.turn = line.next()
	}
	return line.turn == d
}

// leaveLine takes d out of its line and returns the delivery whose turn has
// come, nil if none has.
func (p *pipeline) leaveLine(d *delivery) *delivery {
	line := d.line
	if line == nil {
		return nil
	}
	d.line = nil
	for i, other := range line.queue {
		if other == d {
			line.queue = append(line.queue[:i], line.queue[i+1:]...)
			break
		}
	}
	p.unask(line, d)
	if len(line.queue) == 0 {
		delete(p.lines, line.name)
		return nil
	}
	if line.turn != d {
		return nil
	}
	line.turn = line.next()
	return line.turn
}

// dropLines takes out deliveries that wait for their turn. Those whose turn it is
// are found where they stand; turns are those whose turn has come.
func (p *pipeline) dropLines(match func(*delivery) bool) (out, turns []*delivery) {
	for _, line := range p.lines {
		kept := line.queue[:0]
		for _, d := range line.queue {
			if d != line.turn && match(d) {
				d.line = nil
				out = append(out, d)
				p.unask(line, d)
			} else {
				kept = append(kept, d)
			}
		}
		clear(line.queue[len(kept):])
		line.queue = kept
		if len(kept) == 0 {
			delete(p.lines, line.name)
		} else if line.turn == nil {
			if line.turn = line.next(); line.turn != nil {
				turns = append(turns, line.turn)
			}
		}
	}
	return out, turns
}

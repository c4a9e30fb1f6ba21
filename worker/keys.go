package worker

// order: key — one task of a key at a time, in the order of their records.

// keyLine is the queue of one key. Its first delivery may be anywhere in the
// pipeline; those behind it are nowhere else.
type keyLine struct {
	name  string
	queue []*delivery
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
	return len(line.queue) == 1
}

// leaveLine takes d out of its line and returns the delivery whose turn has
// come, nil if none has.
func (p *pipeline) leaveLine(d *delivery) *delivery {
	line := d.line
	if line == nil {
		return nil
	}
	d.line = nil
	first := line.queue[0] == d
	for i, other := range line.queue {
		if other == d {
			line.queue = append(line.queue[:i], line.queue[i+1:]...)
			break
		}
	}
	if len(line.queue) == 0 {
		delete(p.lines, line.name)
		return nil
	}
	if first {
		return line.queue[0]
	}
	return nil
}

// dropLines takes out deliveries that wait behind another of their key. The
// first of a line is found where it stands.
func (p *pipeline) dropLines(match func(*delivery) bool) (out []*delivery) {
	for _, line := range p.lines {
		kept := line.queue[:1]
		for _, d := range line.queue[1:] {
			if match(d) {
				d.line = nil
				out = append(out, d)
			} else {
				kept = append(kept, d)
			}
		}
		clear(line.queue[len(kept):])
		line.queue = kept
	}
	return out
}

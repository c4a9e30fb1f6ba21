package worker

// Ready to run: a line for each kind, served in turn, so that one kind that
// floods does not starve another (I11), and one whose breaker is open stands
// aside.

import "time"

type readyQueue struct {
	kinds []*kind // every kind that can be ready
	turn  int
	size  int
}

// push puts d at the end of its kind's line, first at its head.
func (q *readyQueue) push(d *delivery, first bool) {
	k := d.kind
	if first {
		k.ready = append([]*delivery{d}, k.ready...)
	} else {
		k.ready = append(k.ready, d)
	}
	q.size++
}

// pop takes up to n deliveries that may start, from each kind in turn.
func (q *readyQueue) pop(n int, now time.Time, out []*delivery) []*delivery {
	idle := 0
	for len(out) < n && q.size > 0 && idle < len(q.kinds) {
		k := q.kinds[q.turn%len(q.kinds)]
		q.turn++
		if len(k.ready) == 0 || !k.breaker.allow(now) {
			idle++
			continue
		}
		idle = 0
		d := k.ready[0]
		k.ready[0] = nil
		k.ready = k.ready[1:]
		q.size--
		d.probe = k.breaker.open() // then allow let it through as the one probe
		out = append(out, d)
	}
	return out
}

// nextProbe is the earliest moment at which a kind that has work may try again.
func (q *readyQueue) nextProbe(now time.Time) (t time.Time) {
	if q.size == 0 {
		return t
	}
	for _, k := range q.kinds {
		if at := k.breaker.probeAt(now); len(k.ready) > 0 && !at.IsZero() && (t.IsZero() || at.Before(t)) {
			t = at
		}
	}
	return t
}

// remove takes out all that match.
func (q *readyQueue) remove(match func(*delivery) bool) (out []*delivery) {
	for _, k := range q.kinds {
		kept := k.ready[:0]
		for _, d := range k.ready {
			if match(d) {
				out = append(out, d)
			} else {
				kept = append(kept, d)
			}
		}
		clear(k.ready[len(kept):])
		k.ready = kept
	}
	q.size -= len(out)
	return out
}

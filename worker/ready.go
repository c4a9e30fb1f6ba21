package worker

// Ready to run: a line for each kind, and which of them gets the next slot, so
// that one kind that floods, or hangs until its timeout, does not starve another
// (I11), and one whose breaker is open stands aside.
//
// A kind's share of the slots is its queue's by weight, divided among the queue's
// kinds. Free slots go to the kind that has the least of its share. Beyond its
// share a kind may take only what leaves the others their shares, or half of all
// slots, whichever is less: a slot that a slow task holds cannot be taken back
// before its timeout, so some are kept for who has nothing to run at the moment.

import "time"

type readyQueue struct {
	kinds []*kind // every kind that can be ready
	slots int     // of the worker
	size  int
	busy  int     // slots taken
	owed  float64 // slots that kinds have left of their shares
}

// limit is a bound of slots for one kind, or for several that share one dependency.
type limit struct {
	most int // 0 = none
	busy int
}

func (l *limit) full() bool { return l != nil && l.most > 0 && l.busy >= l.most }

// divide gives every kind its share of the slots. weights are the queues'.
func (q *readyQueue) divide(slots int, weights map[string]int) {
	kinds, sum := map[string]int{}, 0
	for _, k := range q.kinds {
		kinds[k.Queue]++
	}
	for name := range kinds {
		sum += weights[name]
	}
	q.slots, q.owed = slots, 0
	for _, k := range q.kinds {
		if w := weights[k.Queue]; w > 0 {
			k.share = float64(slots) * float64(w) / float64(sum) / float64(kinds[k.Queue])
		}
		q.owed += k.left()
	}
}

// left is what a kind has left of its share.
func (k *kind) left() float64 { return max(k.share-float64(k.own.busy), 0) }

// take and give move one slot.
func (q *readyQueue) take(k *kind) { q.move(k, 1) }
func (q *readyQueue) give(k *kind) { q.move(k, -1) }

func (q *readyQueue) move(k *kind, n int) {
	q.owed -= k.left()
	q.busy += n
	k.own.busy += n
	if k.dependency != nil {
		k.dependency.busy += n
	}
	q.owed += k.left()
}

// may reports whether a kind that has work may have another slot.
func (q *readyQueue) may(k *kind) bool {
	if k.own.full() || k.dependency.full() {
		return false
	}
	if float64(k.own.busy) < k.share || k.share == 0 {
		return true
	}
	const rounding = 1e-6
	kept := min(q.owed-k.left(), float64(q.slots)/2)
	return float64(q.slots-q.busy-1) >= kept-rounding
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

// pop takes up to n deliveries that may start, and their slots with them.
func (q *readyQueue) pop(n int, now time.Time, out []*delivery) []*delivery {
	for _, k := range q.kinds {
		k.passed = false
	}
	for len(out) < n && q.size > 0 {
		k := q.choose()
		if k == nil {
			break
		}
		if !k.breaker.allow(now) {
			k.passed = true
			continue
		}
		d := k.ready[0]
		k.ready[0] = nil
		k.ready = k.ready[1:]
		q.size--
		q.take(k)
		d.probe = k.breaker.open() // then allow let it through as the one probe
		out = append(out, d)
	}
	return out
}

// choose returns the kind with the least of its share among those that have work
// and may start it; nil if none may.
func (q *readyQueue) choose() (best *kind) {
	for _, k := range q.kinds {
		if len(k.ready) == 0 || k.passed || !q.may(k) {
			continue
		}
		if best == nil || k.used() < best.used() {
			best = k
		}
	}
	return best
}

// used is how much of its share a kind would have with one slot more. A kind
// without a share (that of unknown kinds, which only die here) goes first.
func (k *kind) used() float64 {
	if k.share == 0 {
		return 0
	}
	return float64(k.own.busy+1) / k.share
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

// lists are the lines of all kinds.
func (q *readyQueue) lists() (all [][]*delivery) {
	for _, k := range q.kinds {
		all = append(all, k.ready)
	}
	return all
}

// remove takes out all that match.
func (q *readyQueue) remove(match func(*delivery) bool) (out []*delivery) {
	for _, k := range q.kinds {
		out = append(out, q.removeOf(k, match)...)
	}
	return out
}

// removeOf takes out those of one kind that match.
func (q *readyQueue) removeOf(k *kind, match func(*delivery) bool) (out []*delivery) {
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
	q.size -= len(out)
	return out
}

package claims

// A lease: what one Claim call took in one chunk, as entries and not as hashes.

import (
	"math/bits"
	"strconv"
	"sync"

	"github.com/perdure/perdure/schemas"
)

// Lease is where grants of one Claim call stand in Redis. Its holder passes it
// on with each task's outcome; when the last of its tasks has one, its entry in
// Redis is removed. A lease that is never settled costs memory until the
// horizon, and nothing else.
type Lease struct {
	chunk string // the key
	field string // in its hash
	run   int64  // of each of its grants

	mu   sync.Mutex
	open bitset // tasks without an outcome
}

// bitset is a window of a chunk's bits, highest bit of a byte first, as Redis has them.
type bitset struct {
	first int // byte
	bytes []byte
	count int
}

// reach makes room for a bit.
func (b *bitset) reach(bit int64) {
	at := int(bit >> 3)
	switch {
	case len(b.bytes) == 0:
		b.first = at
		b.bytes = append(b.bytes, 0)
	case at < b.first:
		grown := make([]byte, b.first-at+len(b.bytes))
		copy(grown[b.first-at:], b.bytes)
		b.first, b.bytes = at, grown
	case at >= b.first+len(b.bytes):
		b.bytes = append(b.bytes, make([]byte, at-b.first-len(b.bytes)+1)...)
	}
}

// set reports whether the bit was clear.
func (b *bitset) set(bit int64) bool {
	b.reach(bit)
	p, mask := &b.bytes[int(bit>>3)-b.first], byte(128>>(bit&7))
	if *p&mask != 0 {
		return false
	}
	*p |= mask
	b.count++
	return true
}

// remove clears a bit, if it is set.
func (b *bitset) remove(bit int64) {
	at := int(bit>>3) - b.first
	if at < 0 || at >= len(b.bytes) {
		return
	}
	if mask := byte(128 >> (bit & 7)); b.bytes[at]&mask != 0 {
		b.bytes[at] &^= mask
		b.count--
	}
}

// few bits go to Redis one by one: that costs it less than a string of all.
const few = 8

// append adds the two arguments that scripts take a bitset as; see any_bit in
// lua/chunk.lua.
func (b *bitset) append(args []any) []any {
	if b.count > few || b.count == 0 {
		return append(args, b.first, b.bytes)
	}
	list := make([]byte, 0, 6*few)
	for i, v := range b.bytes {
		for ; v != 0; v &= v - 1 {
			bit := (b.first+i)*8 + 7 - bits.TrailingZeros8(v)
			list = append(strconv.AppendInt(list, int64(bit), 10), ' ')
		}
	}
	return append(args, -1, list)
}

// settleLease notes that a task of a lease has an outcome or a hash of its own.
func (s *Store) settleLease(l *Lease, taskID string) {
	if l == nil {
		return
	}
	id, err := schemas.ParseID(taskID)
	if err != nil {
		return // not reached: it was granted
	}
	l.mu.Lock()
	had := l.open.count
	l.open.remove(id.Seq % ChunkBits)
	spent := had > 0 && l.open.count == 0
	l.mu.Unlock()
	if spent {
		s.spend(l)
	}
}

func (s *Store) settleLeases(held []Hold) {
	for i := range held {
		s.settleLease(held[i].Lease, held[i].TaskID)
	}
}

// spend keeps a lease of which nothing is left for the next call that can remove
// its entry.
func (s *Store) spend(l *Lease) {
	s.mu.Lock()
	s.spent = append(s.spent, l)
	s.mu.Unlock()
}

func (s *Store) takeSpent() []*Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.spent
	s.spent = nil
	return list
}

func (s *Store) spendAgain(list []*Lease) {
	s.mu.Lock()
	s.spent = append(s.spent, list...)
	s.mu.Unlock()
}

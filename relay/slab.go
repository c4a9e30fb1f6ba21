package relay

// The memory of a pass. It is used again by the pass after the next, so that a
// relay under load allocates next to nothing for each row.

import (
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/relaylog"
)

// slab holds a chunk's rows and what is made of them. What was given to the
// Kafka client may be used again only after its acknowledgement.
type slab struct {
	rows  []row
	bytes arena // what rows point to
	size  int   // bytes of payload
	read  int   // rows of the outbox that they came in: a bundle is one

	dues []time.Time   // of rows of perdure.scheduled: when each is due,
	late time.Duration // and how long ago the first was

	made    []kgo.Record
	headers []kgo.RecordHeader
	values  []byte        // of headers
	records []*kgo.Record // of each row; nil: not produced
	send    []*kgo.Record // those that are produced, in order
	fates   []fate
	lent    bool // a client that was given up may still read it
	hops    []relaylog.Hop
}

// add takes a row whose bytes are in m.bytes.
func (m *slab) add(o row) {
	m.rows = append(m.rows, o)
	m.size += len(o.payload)
}

// reset forgets the rows and keeps the room.
func (m *slab) reset() {
	m.rows, m.size, m.read, m.dues, m.late = m.rows[:0], 0, 0, m.dues[:0], 0
	m.bytes.reset()
}

// begin makes room for the records of m.rows.
func (m *slab) begin() {
	n := len(m.rows)
	m.made = slices.Grow(m.made[:0], n)[:n]
	m.records = slices.Grow(m.records[:0], n)[:n]
	m.fates = slices.Grow(m.fates[:0], n)[:n]
	clear(m.records)
	clear(m.fates)
	m.send, m.hops = slices.Grow(m.send[:0], n), slices.Grow(m.hops[:0], n)
	m.headers, m.values = m.headers[:0], m.values[:0]
}

// sortRows puts rows into the order of their ids.
func sortRows(rows []row) {
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.id, b.id) })
}

// arenaBlock is how much an arena takes at once.
const arenaBlock = 1 << 20

// arena copies byte strings into large blocks.
type arena struct {
	blocks [][]byte // all of arenaBlock; those before used are full
	used   int      // blocks in use
}

// copy returns a copy of b that nothing can be appended to. Nil stays nil.
func (a *arena) copy(b []byte) []byte {
	if b == nil {
		return nil
	}
	if len(b) > arenaBlock/4 {
		return slices.Clone(b)
	}
	if a.used == 0 || len(a.blocks[a.used-1])+len(b) > arenaBlock {
		if a.used == len(a.blocks) {
			a.blocks = append(a.blocks, make([]byte, 0, arenaBlock))
		}
		a.blocks[a.used] = a.blocks[a.used][:0]
		a.used++
	}
	block := &a.blocks[a.used-1]
	at := len(*block)
	*block = append(*block, b...)
	return (*block)[at:len(*block):len(*block)]
}

func (a *arena) reset() { a.used = 0 }

// slab returns one that nobody uses.
func (t *term) slab() *slab {
	if n := len(t.spare); n > 0 {
		m := t.spare[n-1]
		t.spare = t.spare[:n-1]
		m.reset()
		return m
	}
	return &slab{}
}

// reuse gives back a slab whose records are all acknowledged, or were never produced;
// one that is lent is left to the garbage collector.
func (t *term) reuse(m *slab) {
	if !m.lent && len(t.spare) < 2 {
		t.spare = append(t.spare, m)
	}
}

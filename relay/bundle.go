package relay

// Bundles: rows of the outbox that stand for several tasks (docs/decisions/0230).

import (
	"encoding/binary"
	"errors"
)

// errBundle makes a letter of a row, whole, that says it is several tasks and does not
// say where each of them begins. Nobody but a hand at the table writes one.
var errBundle = errors.New("ends or keys of the outbox row do not fit its payload: what tasks it stands for cannot be known")

// unbundle adds the tasks of the row o, which has ends and perhaps keys, in Postgres's
// binary form. They share o's payload; their ids follow each other.
func (m *slab) unbundle(o row, ends, keys []byte) {
	at, from := len(m.rows), int64(0)
	end, n, ok := arrayOf(ends)
	key, named, sound := arrayOf(keys)
	if ok = ok && n > 0 && (keys == nil || sound && named == n); !ok {
		n = 0
	}
	payload := o.payload
	for i := range n {
		to, ok := end.int()
		if !ok || to < from || to > int64(len(payload)) {
			from = -1
			break
		}
		one := o
		one.id += int64(i)
		one.payload = payload[from:to:to]
		if keys != nil {
			one.key = string(key.next())
		}
		m.rows = append(m.rows, one)
		from = to
	}
	if n == 0 || from != int64(len(payload)) {
		m.rows = m.rows[:at]
		o.bad = errBundle
		m.rows = append(m.rows, o)
	}
	m.size += len(payload)
}

// elements are those of an array in Postgres's binary form, from the next on.
type elements []byte

// arrayOf reads the head of an array of one dimension that begins at 1. Null is one of none, and not ok.
func arrayOf(b []byte) (e elements, n int, ok bool) {
	const head = 5 * 4 // dimensions, whether it has nulls, type; length and lower bound of the first
	if len(b) < head || binary.BigEndian.Uint32(b) != 1 || binary.BigEndian.Uint32(b[16:]) != 1 {
		return nil, 0, false
	}
	return elements(b[head:]), int(int32(binary.BigEndian.Uint32(b[12:]))), true
}

// next takes an element; nil is a null, or that there is none.
func (e *elements) next() []byte {
	b := *e
	if len(b) < 4 {
		return nil
	}
	n := int(int32(binary.BigEndian.Uint32(b)))
	b = b[4:]
	if n < 0 || n > len(b) {
		*e = b
		return nil
	}
	*e = b[n:]
	return b[:n]
}

// int takes an element that is an integer of four bytes.
func (e *elements) int() (int64, bool) {
	b := e.next()
	if len(b) != 4 {
		return 0, false
	}
	return int64(int32(binary.BigEndian.Uint32(b))), true
}

package client

// COPY of many tasks, several of them to a row where that can be: a bundle
// (docs/decisions/0230). What a row costs, two index entries, its head, its columns,
// is paid once for all of them.

import (
	"encoding/binary"
	"io"
	"strings"
	"time"
)

const (
	// bundleTasks is how many a row may stand for: readers find the row of an id by
	// looking so far below it, see the view perdure.outbox_tasks.
	bundleTasks = 64
	// bundleBytes of payload and keys fill a page of 8 KiB, in which the row must stay:
	// a larger one would be put elsewhere in parts. Left free are the heads of page and
	// row, the other columns (names of up to 100 bytes) and four bytes for each end.
	bundleBytes = 7400
	// partitionSize is how many ids a partition of the outbox has; a bundle lies in one.
	partitionSize = 1_000_000
)

// copyColumns are in the order in which append writes them.
var copyColumns = []string{"id", "generation", "run_at", "deadline", "kind", "queue", "key", "content_type", "headers", "payload", "checked", "ends", "keys"}

var copyOutbox = "copy perdure.outbox (" + strings.Join(copyColumns, ", ") + ") from stdin (format binary)"

// copyStream is the tasks as COPY's binary format has them. pgx's CopyFrom would do,
// but copies each payload three times on its way and hands it to another goroutine,
// a fifth of what enqueueing costs its process.
//
// The format: https://www.postgresql.org/docs/current/sql-copy.html, Binary Format;
// the columns' forms are those of the types' send functions.
type copyStream struct {
	rows       []*row
	ids        []int64
	generation int
	bundles    bool   // several tasks may share a row
	from, to   int    // of rows: what the next outbox row stands for
	waits      bool   // that row is not written yet: there was no room
	rest       []byte // of a row that is larger than a read
	begun, end bool
}

var _ io.Reader = (*copyStream)(nil)

// Read implements io.Reader, with whole rows where they fit.
func (s *copyStream) Read(p []byte) (int, error) {
	const most = 64 // the head of it all, and its end
	if len(s.rest) > 0 {
		n := copy(p, s.rest)
		s.rest = s.rest[n:]
		return n, nil
	}
	if s.end {
		return 0, io.EOF
	}
	b := p[:0]
	if !s.begun {
		s.begun = true
		b = append(b, "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) // no flags, nothing between head and rows
	}
	for s.waits || s.next() {
		if s.waits = len(b)+s.size()+most > len(p); !s.waits {
			b = s.append(b)
			continue
		}
		if len(b) > 0 {
			return s.give(p, b)
		}
		s.waits = false
		return s.give(p, s.append(nil))
	}
	s.end = true
	return s.give(p, binary.BigEndian.AppendUint16(b, 0xffff))
}

// give returns what of b has room in p, and keeps the rest.
func (s *copyStream) give(p, b []byte) (int, error) {
	if len(b) <= len(p) && len(p) > 0 && len(b) > 0 && &b[0] == &p[0] {
		return len(b), nil // it was appended to p
	}
	n := copy(p, b)
	s.rest = b[n:]
	return n, nil
}

// next chooses the tasks of the next row.
func (s *copyStream) next() bool {
	s.from = s.to
	if s.from == len(s.rows) {
		return false
	}
	s.to = s.from + 1
	if !s.bundles {
		return true
	}
	first := s.rows[s.from]
	size := len(first.headers) + first.bundleSize()
	for s.to < len(s.rows) && s.to-s.from < bundleTasks {
		r := s.rows[s.to]
		size += r.bundleSize()
		if size > bundleBytes || s.ids[s.to] != s.ids[s.to-1]+1 || s.ids[s.to]%partitionSize == 0 || !first.likeIn(r) {
			break
		}
		s.to++
	}
	return true
}

// size is what append adds at most.
func (s *copyStream) size() int {
	r := s.rows[s.from]
	n := 200 + len(r.kind) + len(r.queue) + len(r.contentType) + len(r.headers) // the widths, and what has one size
	for _, r := range s.rows[s.from:s.to] {
		n += len(r.payload) + len(r.key) + 12
	}
	return n
}

// append adds the row.
func (s *copyStream) append(b []byte) []byte {
	r, alone := s.rows[s.from], s.to == s.from+1
	b = binary.BigEndian.AppendUint16(b, uint16(len(copyColumns)))
	b = binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(s.ids[s.from]))
	b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 4), uint32(s.generation))
	b = appendTime(appendTime(b, r.runAt), r.deadline)
	b = appendText(appendText(b, r.kind), r.queue)
	if alone {
		b = appendText(b, r.key)
	} else {
		b = appendNull(b)
	}
	b = appendText(b, r.contentType)
	if r.headers == "" {
		b = appendNull(b)
	} else { // jsonb's text has its version before it
		b = append(appendLen(b, 1+len(r.headers)), 1)
		b = append(b, r.headers...)
	}
	if alone {
		b = append(appendLen(b, len(r.payload)), r.payload...)
		b = append(b, 0, 0, 0, 1, 1) // checked
		return appendNull(appendNull(b))
	}
	all, keyed := s.rows[s.from:s.to], 0
	at := len(b)
	b = appendLen(b, 0)
	for _, r := range all {
		b = append(b, r.payload...)
		if r.key != "" {
			keyed++
		}
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	b = append(b, 0, 0, 0, 1, 1) // checked
	b = appendArray(b, 20+8*len(all), false, 23, len(all))
	end := 0
	for _, r := range all {
		end += len(r.payload)
		b = binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 4), uint32(end))
	}
	if keyed == 0 {
		return appendNull(b)
	}
	at = len(b)
	b = appendArray(b, 0, keyed < len(all), 25, len(all))
	for _, r := range all {
		b = appendText(b, r.key)
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func appendLen(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

func appendNull(b []byte) []byte { return append(b, 0xff, 0xff, 0xff, 0xff) }

// appendText adds a text; "" is null.
func appendText(b []byte, s string) []byte {
	if s == "" {
		return appendNull(b)
	}
	return append(appendLen(b, len(s)), s...)
}

// appendTime adds a timestamptz: microseconds since 2000; zero is null.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return appendNull(b)
	}
	const epoch = 946_684_800_000_000 // 2000-01-01, µs after 1970
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(t.UnixMicro()-epoch))
}

// appendArray adds the head of an array of one dimension: size bytes with it, of n
// elements of a type.
func appendArray(b []byte, size int, nulls bool, oid uint32, n int) []byte {
	b = appendLen(b, size)
	b = append(b, 0, 0, 0, 1, 0, 0, 0)
	if nulls {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = appendLen(binary.BigEndian.AppendUint32(b, oid), n)
	return appendLen(b, 1) // the first index
}

// bundleSize is what the task itself adds to a bundle.
func (r *row) bundleSize() int { return len(r.payload) + len(r.key) + 16 }

// likeIn reports whether the two may share a row: all that a row says once must be so
// for both.
func (r *row) likeIn(o *row) bool {
	return r.runAt.IsZero() && o.runAt.IsZero() && r.kind == o.kind && r.queue == o.queue &&
		r.contentType == o.contentType && r.headers == o.headers && r.deadline.Equal(o.deadline)
}

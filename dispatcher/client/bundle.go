package client

// COPY of many tasks, several of them to a row where that can be: a bundle
// (docs/decisions/0230). What a row costs, two index entries, its head, its columns,
// is paid once for all of them.

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
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

var copyColumns = []string{"id", "generation", "run_at", "deadline", "kind", "queue", "key", "content_type", "headers", "payload", "checked", "ends", "keys"}

// copySource feeds tasks to COPY without a slice for each.
type copySource struct {
	rows       []*row
	ids        []int64
	generation int
	bundles    bool // several tasks may share a row
	from, to   int  // of rows: what the next outbox row stands for
	values     []any

	payload []byte // of a bundle
	ends    []int32
	keys    []*string
}

func newCopySource(rows []*row, ids []int64, generation int, bundles bool) *copySource {
	return &copySource{rows: rows, ids: ids, generation: generation, bundles: bundles, values: make([]any, len(copyColumns))}
}

var _ pgx.CopyFromSource = (*copySource)(nil)

// Next implements pgx.CopyFromSource.
func (s *copySource) Next() bool {
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

// bundleSize is what the task itself adds to a bundle.
func (r *row) bundleSize() int { return len(r.payload) + len(r.key) + 16 }

// likeIn reports whether the two may share a row: all that a row says once must be so
// for both.
func (r *row) likeIn(o *row) bool {
	return r.runAt.IsZero() && o.runAt.IsZero() && r.kind == o.kind && r.queue == o.queue &&
		r.contentType == o.contentType && r.headers == o.headers && r.deadline.Equal(o.deadline)
}

// Values implements pgx.CopyFromSource. They hold until the next call.
func (s *copySource) Values() ([]any, error) {
	r := s.rows[s.from]
	s.values = append(s.values[:0], s.ids[s.from], s.generation, nullTime(r.runAt), nullTime(r.deadline), r.kind, r.queue)
	if s.to == s.from+1 {
		s.values = append(s.values, nullText(r.key), r.contentType, nullText(r.headers), r.payload, true, nil, nil)
		return s.values, nil
	}
	s.payload, s.ends, s.keys = s.payload[:0], s.ends[:0], s.keys[:0]
	keyed := false
	for _, r := range s.rows[s.from:s.to] {
		s.payload = append(s.payload, r.payload...)
		s.ends = append(s.ends, int32(len(s.payload)))
		s.keys = append(s.keys, textPtr(&r.key))
		keyed = keyed || r.key != ""
	}
	var keys any
	if keyed {
		keys = pgtype.FlatArray[*string](s.keys)
	}
	s.values = append(s.values, nil, r.contentType, nullText(r.headers), s.payload, true, pgtype.FlatArray[int32](s.ends), keys)
	return s.values, nil
}

// Err implements pgx.CopyFromSource.
func (s *copySource) Err() error { return nil }

package relay

// Reading a window: rows that the cursor has not passed, with the snapshot that
// they were read under.

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// row is one outbox row (or the same row filed as scheduled or parked).
type row struct {
	id          int64
	generation  int
	epoch       int
	created     time.Time
	deadline    time.Time // zero = none
	kind        string
	queue       string
	key         string // "" = none
	taskID      string // "" = this row's own; else a replay
	contentType string
	headers     []byte // jsonb text; nil = none
	payload     []byte
	checked     bool // the payload was held against its schema before acceptance
	later       bool // run_at is ahead, by the database's clock
}

// window is one chunk of what is to be relayed.
type window struct {
	upto    string // the snapshot read under
	now     time.Time
	flushed bool  // all that upto sees is on disk
	atID    int64 // rows up to this id were relayed by earlier chunks
	rows    []row // in order of id
	full    bool  // there may be more below upto
}

// readWindow reads the next chunk. errLeaseLost: the fence is another's.
func (t *term) readWindow(ctx context.Context) (*window, error) {
	limit := t.limit
	var w *window
	var err error
	if t.large {
		w, err = t.read(ctx, t.r.sql.rest, t.r.cfg.Source, t.fence, limit, int64(restSpan*limit))
		if err != nil {
			return nil, err
		}
		// Only the read by xid can tell that a window has ended.
		w.full = true
		if len(w.rows) > 0 {
			return w, nil
		}
		t.large = false
	}
	w, err = t.read(ctx, t.r.sql.window, t.r.cfg.Source, t.fence, limit)
	if err != nil {
		return nil, err
	}
	w.full = w.full || len(w.rows) == limit
	return w, nil
}

// restSpan bounds what a read by primary key looks at, in ids per row wanted:
// a gap of old ids between a late commit and the rest is left to the read by xid.
const restSpan = 20

func (t *term) read(ctx context.Context, sql string, args ...any) (*window, error) {
	if t.r.seams.beforeRead != nil {
		if err := t.r.seams.beforeRead(ctx, t); err != nil {
			return nil, err
		}
	}
	rows, err := t.conn.Query(ctx, sql, append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("postgres: read the outbox: %w", err)
	}
	defer rows.Close()
	w := &window{rows: make([]row, 0, t.expect)}
	head, size := false, 0
	for rows.Next() {
		v := rows.RawValues()
		if v[0] != nil {
			head = true
			w.upto, w.flushed = string(v[0]), v[1][0] != 0
			w.now, w.atID = pgTime(v[2]), int64(binary.BigEndian.Uint64(v[3]))
			continue
		}
		if size >= t.r.cfg.ChunkBytes {
			w.full = true // the rest comes again, in a smaller chunk
			continue
		}
		next := t.decodeRow(v[4:])
		if n := len(w.rows); n > 0 && w.rows[n-1].id >= next.id {
			return nil, fmt.Errorf("relay: the outbox came out of order, id %d after %d", next.id, w.rows[n-1].id)
		}
		w.rows = append(w.rows, next)
		size += len(next.payload)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("postgres: read the outbox: %w", err)
	}
	if !head {
		return nil, fmt.Errorf("%w: the cursor has another fence", errLeaseLost)
	}
	t.expect = len(w.rows)
	t.adapt(w)
	return w, nil
}

// adapt makes the next chunk smaller where this one's bytes were too many, so
// that rows are not read to be thrown away, and larger again later.
func (t *term) adapt(w *window) {
	if w.full {
		t.limit = max(1, len(w.rows))
	} else {
		t.limit = min(t.r.cfg.Chunk, 2*t.limit)
	}
}

// decodeRow reads rowColumns and later from their binary form. It copies what it keeps.
func (t *term) decodeRow(v [][]byte) row {
	r := row{
		id:          int64(binary.BigEndian.Uint64(v[0])),
		generation:  int(int32(binary.BigEndian.Uint32(v[1]))),
		epoch:       int(int32(binary.BigEndian.Uint32(v[2]))),
		created:     pgTime(v[3]),
		deadline:    pgTime(v[4]),
		kind:        t.word(v[5]),
		queue:       t.word(v[6]),
		key:         string(v[7]),
		taskID:      string(v[8]),
		contentType: t.word(v[9]),
		payload:     slices.Clone(v[11]),
		checked:     v[12][0] != 0,
		later:       v[13][0] != 0,
	}
	if len(v[10]) > 1 { // a version byte stands before jsonb's text
		r.headers = slices.Clone(v[10][1:])
	}
	return r
}

// word keeps one copy of the few strings that come in every row.
func (t *term) word(b []byte) string {
	if s, ok := t.words[string(b)]; ok {
		return s
	}
	if len(t.words) > 10_000 {
		clear(t.words)
	}
	s := string(b)
	t.words[s] = s
	return s
}

// pgTime reads a binary timestamptz: microseconds since 2000. The infinities
// become the zero time.
func pgTime(b []byte) time.Time {
	if b == nil {
		return time.Time{}
	}
	us := int64(binary.BigEndian.Uint64(b))
	if us == 1<<63-1 || us == -1<<63 {
		return time.Time{}
	}
	const epoch = 946684800 // 2000-01-01 in Unix seconds
	return time.UnixMicro(epoch*1_000_000 + us).UTC()
}

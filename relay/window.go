package relay

// Reading a window: rows that the cursor has not passed, with the snapshot that
// they were read under.
//
// A window that fits a chunk is one read, by xid. Where one follows another, each is
// read up to a target that the move past the one before has written into the cursor. A
// larger one is read in chunks up to such a target by primary key, each while the one
// before it is produced, from the lowest of its ids to the highest. What is behind a large
// one is likely to be large, too: of that the ids are asked first, because what a window
// holds beyond a chunk would have been read for nothing.

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

// row is one task of the outbox (or the same one filed as scheduled or parked). Its
// payload and headers lie in its slab.
type row struct {
	id          int64
	rowID       int64 // of the outbox row that it stands in: a bundle's first task has the same
	generation  int
	epoch       int
	created     time.Time
	due         time.Time // zero = when it was enqueued, or not known
	deadline    time.Time // zero = none
	kind        string
	queue       string
	key         string // "" = none
	taskID      string // "" = this row's own; else a replay
	contentType string
	headers     []byte // jsonb text; nil = none
	payload     []byte
	checked     bool  // the payload was held against its schema before acceptance
	later       bool  // run_at is ahead, by the database's clock
	bad         error // why it cannot be a task; nil: it can
}

// window is one chunk of what is to be relayed.
type window struct {
	*slab          // rows, in order of id
	upto    string // the snapshot read under
	now     time.Time
	flushed bool  // all that upto sees is on disk
	full    bool  // there is more below upto
	end     int64 // where full: ids up to this one are read
	ids     int64 // the highest that was handed out
	ended   bool  // the end of a large window: no rows, the cursor moves beyond
}

// target is what the cursor's row says of a target beside prev.
type target uint8

const (
	noTarget target = iota // there is none
	held                   // rows up to it are not passed
	drained                // all up to it is passed, as this term has seen
)

// readWindow reads the next chunk. errLeaseLost: the fence is another's.
func (t *term) readWindow(ctx context.Context) (*window, error) {
	if t.large {
		return t.readRest(ctx, t.at)
	}
	limit := t.limit
	w, over, err := t.read(ctx, t.r.sql.window, t.target == drained, limit+1, t.bound())
	if err != nil {
		return nil, err
	}
	if t.outgrown(w) {
		return t.readWindow(ctx)
	}
	if t.target == held && w.read == 0 { // the term before had passed it all
		t.target = drained
		t.reuse(w.slab)
		return t.readWindow(ctx)
	}
	if !over && w.read <= limit {
		t.r.sql.sort(w.rows)
		return w, nil
	}
	if t.target != held {
		// The cursor's commit also puts on disk all that upto sees.
		if err := t.commit(moveWithin, w.upto, int64(0)).run(ctx); err != nil {
			return nil, err
		}
		t.target = held
	}
	return t.openLarge(ctx, w)
}

// bound is up to which id a window is looked for: the end of the partition that ids have
// come to, as far as the term knows.
func (t *term) bound() int64 { return t.ids/partitionSize*partitionSize + partitionSize - 1 }

// outgrown reports whether there may be rows above what w looked at: then it is read again.
func (t *term) outgrown(w *window) bool {
	if w.ids <= t.bound() {
		return false
	}
	t.ids = w.ids
	t.reuse(w.slab)
	return true
}

// openLarge begins with the held target, of which w is too much at once.
func (t *term) openLarge(ctx context.Context, w *window) (*window, error) {
	t.reuse(w.slab)
	t.large, t.at, t.last = true, 0, 0
	return t.readRest(ctx, 0)
}

// restSpan is how many ids a read by primary key looks at, for each task that it
// may return: a wider gap of old ids, between a late commit and the rest, is
// jumped over.
const restSpan = 4

// readRest reads the next chunk of a held target above id at. The last one has the highest
// id of the target's rows: it is not full.
func (t *term) readRest(ctx context.Context, at int64) (*window, error) {
	for {
		if t.last <= at { // not known
			upto, d, err := t.bounds(ctx, at)
			if err != nil {
				return nil, err
			}
			if d.empty {
				return &window{slab: t.slab(), upto: upto, flushed: true, ended: true}, nil
			}
			at, t.last = d.first-1, d.last
		}
		// One partition at a time: its index gives the order, and nothing is sorted.
		limit, to := t.limit, min(at+int64(restSpan*t.limit*max(1, t.bundled)), (at+1)/partitionSize*partitionSize+partitionSize-1, t.last)
		w, over, err := t.read(ctx, t.r.sql.rest, limit, at, to)
		if err != nil {
			return nil, err
		}
		n := len(w.rows)
		if n == 0 {
			t.reuse(w.slab)
			at, t.last = to, 0 // a gap: where does it end?
			continue
		}
		for i := 1; i < n; i++ {
			if w.rows[i-1].id >= w.rows[i].id {
				return nil, fmt.Errorf("relay: the outbox came out of order, id %d after %d", w.rows[i].id, w.rows[i-1].id)
			}
		}
		w.end = w.rows[n-1].id
		if !over && w.read < limit { // nothing else is up to there; a bundle's tasks may reach beyond
			w.end = max(w.end, to)
		}
		w.full = w.end < t.last
		return w, nil
	}
}

// extent is what a difference reaches over.
type extent struct {
	first, last int64 // ids
	empty       bool
}

// bounds looks at what the held target has above at.
func (t *term) bounds(ctx context.Context, at int64) (upto string, d extent, err error) {
	rows, err := t.conn.Query(ctx, t.r.sql.bounds, t.r.cfg.Source, t.fence, t.place, at)
	if err != nil {
		return "", d, fmt.Errorf("postgres: look where the outbox's next rows are: %w", err)
	}
	return scanBounds(rows)
}

func scanBounds(rows pgx.Rows) (upto string, d extent, err error) {
	defer rows.Close()
	if rows.Next() {
		var first, last *int64
		err = rows.Scan(&upto, &first, &last)
		if d.empty = first == nil || last == nil; !d.empty {
			d.first, d.last = *first, *last
		}
		rows.Close()
	}
	if err = cmp.Or(err, rows.Err()); err != nil {
		return "", d, fmt.Errorf("postgres: look where the outbox's next rows are: %w", err)
	}
	if upto == "" {
		return "", d, fmt.Errorf("%w: the cursor has another fence", errLeaseLost)
	}
	return upto, d, nil
}

// read runs the read of a fresh window or of the rest of a large one; more is what
// stands behind the cursor's place. over says that there were more bytes or tasks than a
// chunk may have: the rows behind them are not in the window.
func (t *term) read(ctx context.Context, sql string, more ...any) (w *window, over bool, err error) {
	if t.r.seams.beforeRead != nil {
		if err := t.r.seams.beforeRead(ctx, t); err != nil {
			return nil, false, err
		}
	}
	args := append([]any{pgx.QueryResultFormats{pgx.BinaryFormatCode}, t.r.cfg.Source, t.fence, t.place}, more...)
	if sql == t.r.sql.rest { // planned for these ids: by them the planner knows which partition is asked
		args = append([]any{pgx.QueryExecModeCacheDescribe}, args...)
	}
	rows, err := t.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, false, fmt.Errorf("postgres: read the outbox: %w", err)
	}
	return t.receive(rows)
}

// receive makes a window of what a read answers.
func (t *term) receive(rows pgx.Rows) (w *window, over bool, err error) {
	defer rows.Close()
	w = &window{slab: t.slab()}
	head := false
	for rows.Next() {
		v := rows.RawValues()
		if v[0] == nil {
			head = true
			w.now, w.upto, w.flushed = pgTime(v[1]), string(v[2]), v[12] == nil || v[12][0] != 0
			if w.ids, err = strconv.ParseInt(string(v[3]), 10, 64); err != nil {
				return nil, false, fmt.Errorf("postgres: read where the outbox's ids stand: %w", err)
			}
			continue
		}
		if w.size >= t.r.cfg.ChunkBytes || len(w.rows) > t.r.cfg.Chunk {
			over = true
			continue
		}
		w.read++
		o := t.decodeRow(w.slab, v)
		o.due = pgTime(v[16])
		if v[14] != nil {
			w.unbundle(o, v[14], v[15])
		} else {
			w.add(o)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("postgres: read the outbox: %w", err)
	}
	if !head {
		return nil, false, fmt.Errorf("%w: the cursor has another fence", errLeaseLost)
	}
	if over || w.read >= t.limit/8 { // a handful says nothing of the next backlog
		t.adapt(w.slab)
	}
	return w, over, nil
}

// adapt sets how many rows the next chunk has, so that rows which are large, or many
// tasks each, are not read to be thrown away.
func (t *term) adapt(m *slab) {
	if n := m.read; n > 0 {
		t.bundled = (len(m.rows) + n - 1) / n
		t.limit = max(1, min(t.r.cfg.Chunk*n/len(m.rows), int(int64(t.r.cfg.ChunkBytes)*int64(n)/int64(m.size+1))))
	}
}

// decodeRow reads rowColumns and later from their binary form. It copies what it
// keeps: bytes into m.
func (t *term) decodeRow(m *slab, v [][]byte) row {
	r := row{
		id:          int64(binary.BigEndian.Uint64(v[0])),
		created:     pgTime(v[1]),
		kind:        t.word(v[2]),
		queue:       t.word(v[3]),
		key:         string(v[4]),
		taskID:      string(v[5]),
		payload:     m.bytes.copy(v[6]),
		contentType: schemas.JSONContentType,
		deadline:    pgTime(v[9]),
		generation:  int(int32(binary.BigEndian.Uint32(v[11]))),
		checked:     v[12] == nil || v[12][0] != 0,
		later:       v[13] != nil && v[13][0] != 0,
	}
	r.rowID = r.id
	if v[7] != nil {
		r.contentType = t.word(v[7])
	}
	if len(v[8]) > 0 {
		r.headers = m.bytes.copy(v[8])
	}
	if v[10] != nil {
		r.epoch = int(int32(binary.BigEndian.Uint32(v[10])))
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

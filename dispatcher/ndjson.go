package dispatcher

// POST /v1/tasks with NDJSON: line by line, in batches that commit together, in
// bounded memory; a bad line gets its problem and the rest goes on.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/dispatcher/internal/admission"
	"github.com/perdure/perdure/dispatcher/internal/lines"
	"github.com/perdure/perdure/internal/api"
)

const (
	lineBatch     = 500
	lineBatchSize = 4 << 20          // bytes of lines in a batch
	wholePost     = 256 << 10        // bytes of a post that is read before its first batch, if its length is known
	streamIdle    = 60 * time.Second // for a client that neither sends nor takes
	lineWait      = 20 * time.Second // of a line, for its turn: well below streamIdle, and what proxies allow
)

// LineResult answers one line of an NDJSON post: an accepted task, or a
// problem.
type LineResult struct {
	Line      int    `json:"line" doc:"from 1; blank lines count but get no answer"`
	ID        string `json:"id,omitempty"`
	Seq       int64  `json:"seq,omitempty"`
	State     string `json:"state,omitempty"`
	Replayed  bool   `json:"replayed,omitempty" doc:"the idempotency key was known: the first answer again"`
	Duplicate bool   `json:"duplicate,omitempty" doc:"the unique key is held: this is the task that holds it"`
	*api.Problem
}

// stream is one NDJSON post.
type stream struct {
	d        *Dispatcher
	client   *client.Client
	who      *admission.Producer
	producer string
	key      string // of the request; line n gets <key>/<n>
	trace    string

	held  *lines.Line // read, and waiting for its turn
	shut  bool        // a line waited in vain for the gate to open: the next do not
	tasks []client.Task
	taken []admission.Taken // of the quota, a task each
	lines []LineResult      // of the batch; a task's place is where Problem and ID are empty
	size  int
	out   bytes.Buffer
}

// serveLines answers a post. It returns an error only if nothing was answered
// yet.
func (d *Dispatcher) serveLines(w http.ResponseWriter, r *http.Request, s *stream) error {
	ctx := r.Context()
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	done, p := s.begin(ctx)
	if p != nil {
		drain(rc, r.Body)
		return d.refused(p)
	}
	defer done()
	in := lines.NewReader(&idleReader{rc: rc, r: r.Body, idle: d.cfg.streamIdle}, maxTaskJSON)
	// What net/http has read with the head is a few lines only, and each batch is a
	// transaction. A client that waits for answers in between cannot tell its length.
	if n := r.ContentLength; n > 0 && n <= wholePost {
		in.Await(int(n))
	}
	// The first batch decides between a problem for all and 200.
	more, err := s.batch(ctx, in)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	queue := newResults(resultsInMemory)
	pumped := make(chan error, 1)
	go func() {
		pumped <- queue.pump(&idleWriter{rc: rc, w: w, idle: d.cfg.streamIdle}, rc.Flush)
	}()
	for {
		if _, err = queue.Write(s.out.Bytes()); err != nil {
			break
		}
		s.out.Reset()
		if !more {
			break
		}
		if more, err = s.batch(ctx, in); err != nil {
			s.giveUp(err)
			more, err = false, nil
		}
	}
	queue.Close()
	if err := errors.Join(err, <-pumped); err != nil && ctx.Err() == nil {
		d.log.WarnContext(ctx, "answer to an NDJSON post was not taken", "error", err)
	}
	return nil
}

// idleReader gives the client a while for each read, not for the whole post.
type idleReader struct {
	rc   *http.ResponseController
	r    io.Reader
	idle time.Duration
}

func (i *idleReader) Read(p []byte) (int, error) {
	_ = i.rc.SetReadDeadline(time.Now().Add(i.idle)) // not supported: then without
	return i.r.Read(p)
}

// idleWriter does the same for each write: the deadline of the one before may have
// passed while lines waited for their turn.
type idleWriter struct {
	rc   *http.ResponseController
	w    io.Writer
	idle time.Duration
}

func (i *idleWriter) Write(p []byte) (int, error) {
	_ = i.rc.SetWriteDeadline(time.Now().Add(i.idle)) // not supported: then without
	return i.w.Write(p)
}

// drain takes what the client has sent, within bounds: one that is still sending
// would see a broken connection instead of the answer.
func drain(rc *http.ResponseController, body io.Reader) {
	_ = rc.SetReadDeadline(time.Now().Add(time.Second)) // not supported: then without
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 2*lineBatchSize))
}

// batch reads lines until a batch is full, no more are there at once, or the next
// one's turn has not come; commits them, and writes their answers to s.out. more
// is false after the last line. An error means that none of the batch was
// accepted, or that it is not known.
func (s *stream) batch(ctx context.Context, in *lines.Reader) (more bool, err error) {
	s.tasks, s.taken, s.lines, s.size = s.tasks[:0], s.taken[:0], s.lines[:0], 0
	more = true
	for len(s.lines) < lineBatch && s.size < lineBatchSize && (len(s.lines) == 0 || s.held != nil || in.Ready()) {
		if s.held == nil {
			line, rerr := in.Next()
			if errors.Is(rerr, io.EOF) {
				more = false
				break
			}
			if rerr != nil {
				s.problem(line.Number, api.NewProblem(http.StatusBadRequest, "incomplete", "the post broke off after the line before this one").WithNext(retrySafely))
				more = false
				break
			}
			s.held = &line
		}
		ok, p := s.turn(ctx, len(s.lines) == 0)
		if !ok {
			break
		}
		line := *s.held
		s.held = nil
		if p != nil {
			s.problem(line.Number, p)
			continue
		}
		s.add(ctx, line)
	}
	if len(s.tasks) > 0 {
		if err := s.commit(ctx); err != nil {
			return false, err
		}
	}
	return more, s.encode()
}

func (s *stream) problem(line int, p *api.Problem) {
	s.lines = append(s.lines, LineResult{Line: line, Problem: p})
	s.d.intake.metrics.count("", client.Ref{}, p)
}

func (s *stream) add(ctx context.Context, line lines.Line) {
	if line.TooLong {
		s.problem(line.Number, api.NewProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the line is longer than %d bytes", maxTaskJSON)))
		return
	}
	s.size += len(line.Text)
	t, p := decodeTask(line.Text)
	if p != nil {
		s.problem(line.Number, p)
		return
	}
	taken, p := s.who.Reserve(ctx, 1)
	if p != nil {
		s.problem(line.Number, p)
		return
	}
	t.Producer = s.producer
	if t.IdempotencyKey == "" && s.key != "" {
		t.IdempotencyKey = s.key + "/" + strconv.Itoa(line.Number)
	}
	withTrace(&t, s.trace)
	s.tasks, s.taken = append(s.tasks, t), append(s.taken, taken)
	s.lines = append(s.lines, LineResult{Line: line.Number})
}

// commit writes the batch's tasks. Where another transaction holds one of the
// keys, or Postgres refuses the batch, each task is tried alone.
func (s *stream) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*writeTimeout)
	defer cancel()
	start := time.Now()
	out, err := s.client.EnqueueEach(ctx, s.tasks)
	s.d.intake.metrics.commit.Observe(time.Since(start).Seconds())
	s.d.intake.metrics.batch.Observe(float64(len(s.tasks)))
	if err != nil {
		out = s.d.intake.apart(ctx, s.client, s.tasks, err)
	}
	for i := range out {
		if !spent(out[i].Ref, out[i].Err) {
			s.taken[i].Return(1)
		}
	}
	// Postgres may go away while tasks are tried alone: those that it took have
	// their ids, and must hear so, or they are sent again.
	away := func(o client.Outcome) bool {
		return errors.Is(o.Err, client.ErrUnavailable) || errors.Is(o.Err, client.ErrNotMigrated)
	}
	if !slices.ContainsFunc(out, func(o client.Outcome) bool { return !away(o) }) {
		return out[0].Err
	}
	n := 0
	for i := range s.lines {
		l := &s.lines[i]
		if l.Problem != nil {
			continue
		}
		o := out[n]
		if o.Err != nil {
			l.Problem = s.d.problem(ctx, o.Err)
		} else {
			l.ID, l.Seq, l.State, l.Replayed, l.Duplicate = o.Ref.ID, o.Ref.Seq, string(o.Ref.State), o.Ref.Replayed, o.Ref.Duplicate
		}
		s.d.intake.metrics.count(s.tasks[n].Kind, o.Ref, l.Problem)
		n++
	}
	return nil
}

// giveUp answers the tasks of a batch that could not be committed; what comes
// after it was not read, and gets no answer.
func (s *stream) giveUp(err error) {
	for i := range s.lines {
		if s.lines[i].Problem == nil {
			s.lines[i].Problem = s.d.problem(context.Background(), err)
		}
	}
	_ = s.encode() // of the same types as before
}

func (s *stream) encode() error {
	s.out.Reset()
	enc := json.NewEncoder(&s.out)
	enc.SetEscapeHTML(false)
	for i := range s.lines {
		if l := &s.lines[i]; l.Problem == nil {
			s.out.Write(l.append(s.out.AvailableBuffer()))
		} else if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

// append writes the answer of an accepted task as encoding/json would. Neither an id
// nor a state has anything to escape.
func (l *LineResult) append(b []byte) []byte {
	b = append(b, `{"line":`...)
	b = strconv.AppendInt(b, int64(l.Line), 10)
	b = append(b, `,"id":"`...)
	b = append(b, l.ID...)
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, l.Seq, 10)
	b = append(b, `,"state":"`...)
	b = append(b, l.State...)
	b = append(b, '"')
	if l.Replayed {
		b = append(b, `,"replayed":true`...)
	}
	if l.Duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	return append(b, "}\n"...)
}

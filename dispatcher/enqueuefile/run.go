package enqueuefile

// Reading, sending, counting.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/perdure/perdure/dispatcher/internal/lines"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

const (
	requestLines = 2000
	requestBytes = 4 << 20
	tellEvery    = 15 * time.Second

	// MaxLine is the longest line that is sent, in bytes; a longer one is
	// rejected here.
	MaxLine = schemas.MaxPayload/3*4 + 4*schemas.MaxHeaderBytes + 12<<10
)

// Options say what to send where.
type Options struct {
	Reader io.Reader
	// Name of the file as the user gave it; "-" is the standard input.
	Name string
	// Batch is the scope of the lines' keys; "" is the absolute path of Name. For
	// "-" it is a random one: only with a Batch does a second run know the first.
	Batch string

	URL    string       // of the API, as http://127.0.0.1:8080
	Token  string       // "" is none
	Client *http.Client // nil is a plain one

	// Rejects gets a line of JSON for each refused line; nil keeps none.
	Rejects io.Writer
	// Waiting is told why a request must be made again, at once and then every
	// 15 seconds for as long as no line gets through, from the goroutine of Run;
	// nil is none.
	Waiting func(why error, left time.Duration)
	// Progress is called after each request, from the goroutine of Run; nil is
	// none.
	Progress func(Stats)
	// Patience is how long to try again without any line getting through; 0 is
	// 2 minutes.
	Patience time.Duration
}

// Stats count lines. Blank lines do not count.
type Stats struct {
	Lines     int64         `json:"lines"`     // read and decided
	Accepted  int64         `json:"accepted"`  // new tasks
	Replayed  int64         `json:"replayed"`  // accepted before: same batch, same line
	Duplicate int64         `json:"duplicate"` // their unique key was held by another task
	Rejected  int64         `json:"rejected"`
	Bytes     int64         `json:"bytes"` // of the lines decided
	Retries   int64         `json:"retries"`
	Elapsed   time.Duration `json:"elapsed_ns"`
}

// Rate is lines a second.
func (s Stats) Rate() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Lines) / s.Elapsed.Seconds()
}

// Run sends every line. It returns when each was accepted or rejected, or with
// an error when it cannot go on; then the same call again takes up the rest.
func Run(ctx context.Context, opt Options) (Stats, error) {
	batch := opt.Batch
	switch {
	case batch != "":
	case opt.Name == "-" || opt.Name == "":
		batch = rand.Text()
	default:
		abs, err := filepath.Abs(opt.Name)
		if err != nil {
			return Stats{}, fmt.Errorf("enqueue %s: %w", opt.Name, err)
		}
		batch = abs
	}
	if opt.Client == nil {
		opt.Client = &http.Client{}
	}
	if opt.Patience == 0 {
		opt.Patience = 2 * time.Minute
	}
	s := &sender{opt: opt, keys: newKeyer(batch), start: time.Now()}
	err := s.run(ctx)
	s.stats.Elapsed = time.Since(s.start)
	if err != nil {
		err = fmt.Errorf("enqueue %s: %w", opt.Name, err)
	}
	return s.stats, err
}

// pending is a line that was read and not decided.
type pending struct {
	number     int
	from, size int // its place in sender.text, without the line end
	in, inSize int // its place in sender.input
}

type sender struct {
	opt     Options
	keys    *keyer
	start   time.Time
	stats   Stats
	heard   func() // a line was answered
	text    []byte // of the pending lines, as they are sent
	input   []byte // of the pending lines, as the file has them
	pending []pending
}

var bom = []byte("\xef\xbb\xbf")

func (s *sender) run(ctx context.Context) error {
	in := lines.NewReader(s.opt.Reader, MaxLine)
	for {
		line, err := in.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read: %w", err)
		}
		if end := err != nil; end || len(s.pending) >= requestLines || len(s.text) >= requestBytes {
			if err := s.flush(ctx); err != nil {
				return err
			}
			if end {
				return nil
			}
		}
		if err := s.add(line); err != nil {
			return err
		}
	}
}

func (s *sender) add(line lines.Line) error {
	if line.TooLong {
		return s.reject(line.Number, len(line.Text), line.Text, true, api.NewProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the line is longer than %d bytes", MaxLine)))
	}
	text := line.Text
	if line.Number == 1 {
		text = bytes.TrimPrefix(text, bom)
	}
	from := len(s.text)
	s.text = s.keys.keyed(s.text, text)
	s.pending = append(s.pending, pending{line.Number, from, len(s.text) - from, len(s.input), len(line.Text)})
	s.input = append(s.input, line.Text...)
	s.text = append(s.text, '\n')
	return nil
}

func (s *sender) reject(number, size int, input []byte, cut bool, p *api.Problem) error {
	s.stats.Lines++
	s.stats.Rejected++
	s.stats.Bytes += int64(size)
	if s.opt.Rejects == nil {
		return nil
	}
	b, err := json.Marshal(newReject(number, input, cut, p))
	if err != nil {
		return err
	}
	if _, err := s.opt.Rejects.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write the rejected line %d: %w", number, err)
	}
	return nil
}

// flush sends the pending lines until each is decided.
func (s *sender) flush(ctx context.Context) error {
	wait := backoff{giveUp: time.Now().Add(s.opt.Patience)}
	var told time.Time // when Waiting was told last
	for len(s.pending) > 0 {
		before := len(s.pending)
		after, err := s.sendUntil(ctx, wait.giveUp)
		if s.opt.Progress != nil {
			s.stats.Elapsed = time.Since(s.start)
			s.opt.Progress(s.stats)
		}
		if len(s.pending) < before {
			wait, told = backoff{giveUp: time.Now().Add(s.opt.Patience)}, time.Time{}
		}
		if err == nil && len(s.pending) == 0 {
			break
		}
		if fatal := new(fatalError); errors.As(err, &fatal) {
			return fatal.err
		}
		s.stats.Retries++
		if s.opt.Waiting != nil && err != nil && time.Since(told) >= tellEvery {
			told = time.Now()
			s.opt.Waiting(err, time.Until(wait.giveUp))
		}
		if after > s.opt.Patience {
			return fmt.Errorf("the API asks to come again in %s, which is longer than this waits: %w\n  next: the same command then takes up the rest, nothing is enqueued twice", after, err)
		}
		if werr := wait.wait(ctx, after); werr != nil {
			return errors.Join(werr, err)
		}
	}
	s.pending, s.text, s.input = s.pending[:0], s.text[:0], s.input[:0]
	return nil
}

// sendUntil is send that an API which accepts and never answers cannot hold up
// for ever. One that answers line by line, because a rate slows it down, may take
// as long as it likes.
func (s *sender) sendUntil(ctx context.Context, giveUp time.Time) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(time.Until(giveUp), func() { cancel(errSilent) })
	defer silent.Stop()
	s.heard = func() { silent.Reset(s.opt.Patience) }
	after, err := s.send(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = fmt.Errorf("%w: %w", errSilent, err)
	}
	return after, err
}

var errSilent = errors.New("the API did not answer in time")

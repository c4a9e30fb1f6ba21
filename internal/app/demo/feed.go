package demo

// The producer: reads the file, posts it to the API, notes what was accepted.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/schemas"
)

// scene happens when a share of the input is fed and the bank has seen enough,
// however slow the machine is.
type scene struct {
	at    float64
	ready func(c disputes.BankCounts, accepted int) bool
	act   func() error
}

// fed is what became of the input.
type fed struct {
	accepted []disputes.Accepted
	rejected int
	seen     map[string]bool // disputes accepted
	why      map[string]*rejects
}

type rejects struct {
	n     int
	first int // line
}

func (f *fed) reject(line int, why string) {
	f.rejected++
	if f.why == nil {
		f.why = map[string]*rejects{}
	}
	if f.why[why] == nil {
		f.why[why] = &rejects{first: line}
	}
	f.why[why].n++
}

// reasons says why lines were rejected, the most frequent first, at most twelve.
func (f *fed) reasons() []string {
	var keys []string
	for k := range f.why {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return 2*(f.why[b].n-f.why[a].n) + min(1, max(-1, f.why[a].first-f.why[b].first))
	})
	var list []string
	for i, k := range keys {
		if i == 12 {
			list = append(list, fmt.Sprintf("and %d other reasons", len(keys)-i))
			break
		}
		list = append(list, fmt.Sprintf("%d × %s (first on line %d)", f.why[k].n, k, f.why[k].first))
	}
	return list
}

// line is one line of the input that is worth sending.
type line struct {
	n    int
	text []byte
	disputes.Accepted
}

// batches is into how many posts the input is cut at most times feeding speed.
const batches = 80

// feed posts the input in even steps over opts.Feed, faster never, slower where
// the dispatcher is. Scenes happen between posts.
func (w *world) feed(ctx context.Context, scenes []scene) (*fed, error) {
	out := &fed{}
	lines, total, err := w.read(out)
	if err != nil {
		return nil, err
	}
	size := min(max((len(lines)+batches-1)/batches, 1), 2000)
	steps := (len(lines) + size - 1) / size
	begun := time.Now()
	for step, chunk := range slices.Collect(slices.Chunk(lines, size)) {
		share := float64(step) / float64(steps)
		for len(scenes) > 0 && share >= scenes[0].at {
			came := time.Now()
			if err := w.play(ctx, scenes[0], len(out.accepted)); err != nil {
				return nil, err
			}
			scenes, begun = scenes[1:], begun.Add(time.Since(came))
		}
		if err := w.pause(ctx, time.Until(begun.Add(time.Duration(share*float64(w.opts.Feed))))); err != nil {
			return nil, err
		}
		if err := w.post(ctx, chunk, out); err != nil {
			return nil, err
		}
	}
	for _, s := range scenes { // an input of a few lines
		if err := w.play(ctx, s, len(out.accepted)); err != nil {
			return nil, err
		}
	}
	if len(out.accepted)+out.rejected != total {
		return nil, fmt.Errorf("%d lines were read, but %d accepted and %d rejected", total, len(out.accepted), out.rejected)
	}
	return out, nil
}

// A scene is waited for no longer than sceneWait, and not when the bank was asked
// nothing for sceneIdle: an input may be too small for it.
const (
	sceneWait = 20 * time.Second
	sceneIdle = 2 * time.Second
)

// play waits until a scene's time has come, and acts it.
func (w *world) play(ctx context.Context, s scene, accepted int) error {
	began := time.Now()
	calls, asked := int64(0), began
	for accepted > 0 && time.Since(began) < sceneWait {
		c := w.bank.Counts()
		if s.ready(c, accepted) || calls > 0 && time.Since(asked) > sceneIdle {
			break
		}
		if c.Calls != calls {
			calls, asked = c.Calls, time.Now()
		}
		if err := w.pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return s.act()
}

// read takes the whole input apart; what cannot be sent is rejected here.
func (w *world) read(out *fed) (lines []line, total int, err error) {
	r := bufio.NewReaderSize(w.opts.Input, 1<<16)
	for n := 1; ; n++ {
		text, tooLong, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return lines, total, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(text)) == 0 && !tooLong {
			continue
		}
		total++
		switch {
		case tooLong:
			out.reject(n, "line is longer than a payload may be")
		case !json.Valid(text):
			out.reject(n, "not JSON")
		default:
			lines = append(lines, line{n: n, text: text, Accepted: facts(text)})
		}
	}
}

// facts are what the ledger needs of a line. What does not decode stays zero:
// the dispatcher's schema will refuse such a line.
func facts(text []byte) disputes.Accepted {
	var d struct {
		DisputeID   string          `json:"dispute_id"`
		AmountCents json.RawMessage `json:"amount_cents"`
		Currency    string          `json:"currency"`
	}
	if json.Unmarshal(text, &d) != nil {
		return disputes.Accepted{}
	}
	var amount float64 // JSON Schema calls 100.0 an integer too
	if json.Unmarshal(d.AmountCents, &amount) != nil {
		amount = 0
	}
	return disputes.Accepted{DisputeID: d.DisputeID, AmountCents: int64(amount), Currency: d.Currency}
}

// readLine returns the next line without its end; of a line over the limit only
// that it is too long. io.EOF comes alone.
func readLine(r *bufio.Reader) (text []byte, tooLong bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if !tooLong {
			text = append(text, part...)
		}
		if len(text) > schemas.MaxPayload {
			text, tooLong = nil, true
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && (len(text) > 0 || tooLong):
			return bytes.TrimRight(text, "\r\n"), tooLong, nil
		case err != nil:
			return nil, false, err
		}
		return bytes.TrimRight(text, "\r\n"), tooLong, nil
	}
}

// pause waits for d or until ctx ends.
func (w *world) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ExampleInput is the example's own file.
func ExampleInput() io.ReadCloser { return io.NopCloser(bytes.NewReader(disputes.Input())) }

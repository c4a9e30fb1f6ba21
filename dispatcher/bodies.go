package dispatcher

// The posts that are read and not answered yet, but for NDJSON, which is never read
// whole. Whatever they wait for, a batch, a key, Postgres, they wait within one bound.

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/perdure/perdure/internal/api"
)

const (
	maxBodies = 64 << 20 // bytes of all posts at once; more is refused
	leastBody = 8 << 10  // what a post counts for at least: it is a goroutine, too
)

type bodies struct {
	most int64
	held atomic.Int64 // bytes
}

// take counts n more bytes, if they are within the bound.
func (b *bodies) take(n int64) bool {
	if b.held.Add(n) > b.most {
		b.held.Add(-n)
		return false
	}
	return true
}

// read reads the post's body. done is to be called when its tasks are written or
// refused.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) (body []byte, done func(), p *api.Problem) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not supported: then without
	if r.ContentLength > maxArrayBytes {
		return nil, nil, tooLarge()
	}
	c := &counted{r: http.MaxBytesReader(w, r.Body, maxArrayBytes), all: b}
	if !c.count(leastBody) {
		drain(rc, r.Body)
		return nil, nil, problemOf(errOverloaded)
	}
	body, err := io.ReadAll(c)
	var over *http.MaxBytesError
	switch {
	case err == nil:
		return body, c.giveBack, nil
	case errors.As(err, &over):
		p = tooLarge()
	case errors.Is(err, errOverloaded):
		drain(rc, r.Body)
		p = problemOf(err)
	default:
		p = api.NewProblem(http.StatusBadRequest, "incomplete", "the body broke off")
	}
	c.giveBack()
	return nil, nil, p
}

// counted is a body whose bytes count as they come, not as they are announced:
// whoever announces much and sends nothing must not keep others out.
type counted struct {
	r     io.Reader
	all   *bodies
	n     int64 // read
	taken int64
}

func (c *counted) count(n int64) bool {
	if !c.all.take(n) {
		return false
	}
	c.taken += n
	return true
}

func (c *counted) giveBack() { c.all.held.Add(-c.taken) }

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if more := c.n - c.taken; more > 0 && !c.count(max(more, leastBody)) {
		return 0, errOverloaded
	}
	return n, err
}

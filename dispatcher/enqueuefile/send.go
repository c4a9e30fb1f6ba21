package enqueuefile

// One request, its answers, and when to try again.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/perdure/perdure/internal/api"
)

// fatalError is one that trying again cannot mend.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

// answer is one line of the API's answer.
type answer struct {
	Line      int    `json:"line"`
	ID        string `json:"id"`
	Replayed  bool   `json:"replayed"`
	Duplicate bool   `json:"duplicate"`
	api.Problem
}

// again reports whether the problem is the server's state, not the line's
// content.
func again(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusConflict || status >= 500
}

// send posts the pending lines and keeps those that are not decided. after is
// what the server asks to wait.
func (s *sender) send(ctx context.Context) (after time.Duration, err error) {
	target, err := url.JoinPath(s.opt.URL, "/v1/tasks")
	if err != nil {
		return 0, &fatalError{fmt.Errorf("PERDURE_API_URL: %w", err)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(s.text))
	if err != nil {
		return 0, &fatalError{fmt.Errorf("PERDURE_API_URL: %w", err)}
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if s.opt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.opt.Token)
	}
	res, err := s.opt.Client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("no answer from the API: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return refused(res)
	}
	if ct, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); ct != "application/x-ndjson" {
		return 0, &fatalError{fmt.Errorf("%s answered %q, not NDJSON: is PERDURE_API_URL Perdure's?", target, ct)}
	}
	return s.answers(res.Body)
}

// refused reads a problem for the whole request.
func refused(res *http.Response) (after time.Duration, err error) {
	p := &api.Problem{}
	body, rerr := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if rerr != nil || json.Unmarshal(body, p) != nil || p.Type == "" {
		p = api.NewProblem(res.StatusCode, "http", "the API answered "+res.Status)
	}
	err = told(p)
	if !again(res.StatusCode) {
		return 0, &fatalError{err}
	}
	seconds, aerr := strconv.Atoi(strings.TrimSpace(res.Header.Get("Retry-After")))
	if aerr != nil || seconds < 0 {
		seconds = 0
	}
	return time.Duration(seconds) * time.Second, err
}

// told is a problem with what mends it.
func told(p *api.Problem) error {
	if p.Next == "" {
		return errors.New(p.Error())
	}
	return fmt.Errorf("%s (%s)", p.Error(), p.Next)
}

// answers counts what was decided and keeps the rest pending.
func (s *sender) answers(body io.Reader) (after time.Duration, err error) {
	decided := make([]bool, len(s.pending))
	dec := json.NewDecoder(body)
	for {
		var a answer
		derr := dec.Decode(&a)
		if errors.Is(derr, io.EOF) {
			break
		}
		if derr != nil { // broken off: what was answered counts
			err = fmt.Errorf("the answer broke off: %w", derr)
			break
		}
		if a.Line < 1 || a.Line > len(s.pending) || decided[a.Line-1] {
			return 0, &fatalError{fmt.Errorf("the API answered line %d of %d: is PERDURE_API_URL Perdure's?", a.Line, len(s.pending))}
		}
		if a.ID == "" && (a.Status == 0 || again(a.Status)) {
			err = told(&a.Problem)
			continue
		}
		decided[a.Line-1] = true
		s.heard()
		if derr := s.decide(s.pending[a.Line-1], &a); derr != nil {
			return 0, &fatalError{derr}
		}
	}
	s.keep(decided)
	if err == nil && len(s.pending) > 0 {
		err = errors.New("the answer ended early")
	}
	return 0, err
}

func (s *sender) decide(line pending, a *answer) error {
	if a.ID == "" {
		p := a.Problem
		return s.reject(line.number, line.size, s.input[line.in:line.in+line.inSize], false, &p)
	}
	s.stats.Lines++
	s.stats.Bytes += int64(line.size)
	switch {
	case a.Replayed:
		s.stats.Replayed++
	case a.Duplicate:
		s.stats.Duplicate++
	default:
		s.stats.Accepted++
	}
	return nil
}

// keep moves the undecided lines to the front.
func (s *sender) keep(decided []bool) {
	left, text := s.pending[:0], s.text[:0]
	for i, line := range s.pending {
		if decided[i] {
			continue
		}
		from := len(text)
		text = append(text, s.text[line.from:line.from+line.size+1]...) // never ahead of what is read
		left = append(left, pending{line.number, from, line.size, line.in, line.inSize})
	}
	s.pending, s.text = left, text
}

const (
	firstWait = 100 * time.Millisecond
	longest   = 10 * time.Second
)

// backoff waits longer each time, with jitter, until giveUp.
type backoff struct {
	next   time.Duration
	giveUp time.Time
}

func (b *backoff) wait(ctx context.Context, atLeast time.Duration) error {
	b.next = min(max(2*b.next, firstWait), longest)
	d := max(b.next/2+rand.N(b.next/2), atLeast)
	if time.Now().Add(d).After(b.giveUp) {
		return errors.New("gave up trying\n  next: perdure doctor; then the same command again takes up the rest, nothing is enqueued twice")
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

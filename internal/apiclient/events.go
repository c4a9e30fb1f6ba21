package apiclient

// Server-sent events, as the API gives them: one line of data an event.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// awayFor is how long Follow waits for an API that was there; tests make it shorter.
var awayFor = time.Minute

// awayError is of an API that gave no answer, or none to its end.
type awayError struct{ error }

func (e awayError) Unwrap() error { return e.error }

// Follow is Events until the event "end", over streams that break and an API that is
// restarted meanwhile: it is asked again for a minute, and lost is told why, once each
// time. One that does not answer at first is an error at once.
func (c *Client) Follow(ctx context.Context, path string, lost func(error), each func(event string, data []byte) error) error {
	heard, ended := false, false
	var since time.Time // it has been away; zero = it was there just now
	for {
		err := c.Events(ctx, path, func(event string, data []byte) error {
			heard, ended, since = true, event == "end", time.Time{}
			return each(event, data)
		})
		if err == nil && !ended {
			err = awayError{fmt.Errorf("GET %s: the stream ended before its end", path)}
		}
		switch {
		case ended || ctx.Err() != nil || !heard || !away(err):
			return err
		case since.IsZero():
			since = time.Now()
			lost(err)
		case time.Since(since) > awayFor:
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// away reports whether an API may answer later.
func away(err error) bool {
	var p *Problem
	if errors.As(err, &p) {
		return p.Status == http.StatusBadGateway || p.Status == http.StatusServiceUnavailable || p.Status == http.StatusGatewayTimeout
	}
	return errors.As(err, new(awayError))
}

// Events asks for path and hands each event to each, until the server ends the
// stream, each fails or ctx ends. data is not kept by Events.
func (c *Client) Events(ctx context.Context, path string, each func(event string, data []byte) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, nil, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	if resp.StatusCode/100 != 2 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // a problem cut short says its status
		return problemOf(resp, b)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	var event string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0:
			if data != nil {
				if err := each(event, data); err != nil {
					return err
				}
			}
			event, data = "", nil
		case string(name) == "event":
			event = string(value)
		case string(name) == "data":
			data = bytes.Clone(value)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, context.Canceled) {
		return awayError{fmt.Errorf("GET %s: the stream broke: %w", path, err)}
	}
	return nil
}

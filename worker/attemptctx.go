package worker

// The context of an attempt. Most handlers never look at it, and a timer, a
// channel and a place in its parent's list for each of them would cost more than
// the rest of the attempt: so these are made when somebody first asks for Done.

import (
	"context"
	"sync"
	"time"
)

// attemptContext is context.WithDeadline(parent, deadline), made late.
type attemptContext struct {
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex
	real   context.Context // nil until Done was asked for
	cancel context.CancelFunc
	ended  bool // by end, before there was a real one
}

// end is the context's CancelFunc.
func (c *attemptContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Deadline implements context.Context.
func (c *attemptContext) Deadline() (time.Time, bool) {
	if d, ok := c.parent.Deadline(); ok && d.Before(c.deadline) {
		return d, true
	}
	return c.deadline, true
}

// Done implements context.Context.
func (c *attemptContext) Done() <-chan struct{} { return c.made().Done() }

func (c *attemptContext) made() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
	case c.ended: // whatever the clock says now
		c.real, c.cancel = context.WithCancel(c.parent)
		c.cancel()
	default:
		c.real, c.cancel = context.WithDeadline(c.parent, c.deadline)
	}
	return c.real
}

// Err implements context.Context.
func (c *attemptContext) Err() error {
	c.mu.Lock()
	real, ended := c.real, c.ended
	c.mu.Unlock()
	switch {
	case real != nil:
		return real.Err()
	case ended, c.parent.Err() != nil, !time.Now().Before(c.deadline):
		return c.made().Err() // its reason, and from now on the same one
	}
	return nil
}

// Value implements context.Context. A child that is to end with this context, and
// whoever asks for its cause, look here for the real one.
func (c *attemptContext) Value(key any) any {
	if c.Err() != nil {
		return c.made().Value(key)
	}
	c.mu.Lock()
	real := c.real
	c.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return c.parent.Value(key)
}

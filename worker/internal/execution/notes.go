package execution

// What a handler says while it runs.

import (
	"sync"
	"time"
)

const (
	// MaxProgress bounds how far a task says it is, in bytes of JSON.
	MaxProgress = 4 << 10
	// MaxResult bounds what it found, in bytes of JSON.
	MaxResult = 64 << 10
)

// Notes are a running attempt's signs of life and its result. Safe for
// concurrent use; the zero Notes are ready.
type Notes struct {
	mu       sync.Mutex
	beat     time.Time // the last sign; zero = none
	progress []byte    // JSON, to be told to others; nil = nothing new
	value    []byte    // JSON
}

// Beat notes a sign of life, and how far the work is; nil = that was not said.
func (n *Notes) Beat(progress []byte) {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.beat = now
	if progress != nil {
		n.progress = progress
	}
}

// Last returns when the last sign was.
func (n *Notes) Last() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.beat
}

// TakeProgress returns what is new to tell, once.
func (n *Notes) TakeProgress() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.progress
	n.progress = nil
	return p
}

// SetValue sets the result.
func (n *Notes) SetValue(v []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.value = v
}

// Value returns the result; nil = none was set.
func (n *Notes) Value() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.value
}

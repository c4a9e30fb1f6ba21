package relay

// What a relay says of itself.

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

// State of a relay process.
type State string

// The states of a relay.
const (
	StateStarting State = "starting"
	StateStandby  State = "standby" // another process relays; this one is ready to
	StateActive   State = "active"
	StateWaiting  State = "waiting" // a server is away; Err says which
	StateHalted   State = "halted"  // a person must decide; Err is a *HaltError
)

// Status is a relay's own view, for /readyz and people.
type Status struct {
	State   State
	Since   time.Time         // this process's clock
	Fence   int64             // while active; else 0
	Err     error             // why it waits or is halted; nil = well
	Parked  map[string]string // queue → why its rows are parked; nil = none
	Retries error             // why records of delay topics do not move; nil = they do
}

// Ready is nil when the relay does its work, or stands by for one that does.
func (s Status) Ready() error {
	if s.State == StateActive || s.State == StateStandby {
		return errors.Join(s.Err, s.Retries)
	}
	if s.Err == nil {
		return fmt.Errorf("relay is %s", s.State)
	}
	return fmt.Errorf("relay is %s: %w", s.State, s.Err)
}

// Status may be called at any time, by any goroutine.
func (r *Relay) Status() Status {
	r.mu.Lock()
	s := r.status
	s.Parked = maps.Clone(s.Parked)
	r.mu.Unlock()
	if s.State == StateActive {
		if err := r.broker.waiting(); err != nil {
			s.State, s.Err = StateWaiting, err
		}
	}
	return s
}

func (r *Relay) setState(state State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State != state {
		r.status.Since = time.Now()
	}
	r.status.State, r.status.Err = state, err
	if state != StateActive && state != StateWaiting {
		r.status.Fence, r.status.Parked = 0, nil
	}
}

// setActive also takes over which queues are parked.
func (t *term) setActive() {
	t.r.setState(StateActive, nil)
	t.r.metrics.active.Set(1)
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	t.r.status.Fence = t.fence
	if !maps.Equal(t.parked, t.r.status.Parked) {
		t.r.status.Parked = maps.Clone(t.parked)
	}
}

func (r *Relay) setRetries(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Retries = err
}

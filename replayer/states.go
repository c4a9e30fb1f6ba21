package replayer

// The states of a replay, and which act moves it between them.

import "slices"

// State of a replay.
type State string

// The states of a replay: planned → (approved) → canary → ramping → running →
// done. Paused comes from, and goes back to, any of the three that move
// letters. The last three are terminal.
const (
	Planning  State = "planning" // its letters are looked at, one by one; nothing moves
	Planned   State = "planned"
	Approved  State = "approved"
	InCanary  State = "canary"  // the first few letters are out, or on their way
	Ramping   State = "ramping" // the rate grows
	Running   State = "running"
	Paused    State = "paused"
	Done      State = "done"    // every letter was moved or refused; outcomes may still come in
	Stopped   State = "stopped" // by one of its rules
	Cancelled State = "cancelled"
)

// Moving reports whether letters may move in this state.
func (s State) Moving() bool { return s == InCanary || s == Ramping || s == Running }

// Over reports whether no letter will move any more.
func (s State) Over() bool { return s == Done || s == Stopped || s == Cancelled }

// Waits reports whether a person must act before anything moves.
func (s State) Waits() bool { return s == Planned || s == Approved || s == Paused }

// act is what a person does to a replay.
type act struct {
	name string // in the audit
	from []State
	to   State
}

var (
	actApprove = act{"replay.approve", []State{Planned, Approved}, Approved}
	actStart   = act{"replay.start", []State{Planned, Approved, InCanary, Ramping, Running}, ""} // to: see firstState
	actPause   = act{"replay.pause", []State{InCanary, Ramping, Running, Paused}, Paused}
	actResume  = act{"replay.resume", []State{Paused, InCanary, Ramping, Running}, ""} // to: where it was
	actCancel  = act{"replay.cancel", []State{Planning, Planned, Approved, InCanary, Ramping, Running, Paused, Cancelled}, Cancelled}
	actRate    = act{"replay.rate", []State{Planning, Planned, Approved, InCanary, Ramping, Running, Paused}, ""} // to: as it is
)

func (a act) allows(s State) bool { return slices.Contains(a.from, s) }

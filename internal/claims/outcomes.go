package claims

// What callers say about tasks they hold, and what the store answers.

import "time"

// Outcome is a handler that succeeded.
type Outcome struct {
	TaskID string
	Epoch  int    // of the run that succeeded
	Run    int64  // the run that succeeded
	Lease  *Lease // of its grant, nil where that is not known any more
}

// DoneResult is the answer for one Outcome. In every case the task is done now.
type DoneResult struct {
	Resolve bool // it was dead, or its epoch is above 0: produce resolved before the acknowledgement
	Mine    bool // the claim was still this owner's at this run
}

// Hold names a claim as its owner knows it: the task and the run it was granted.
type Hold struct {
	TaskID string
	Run    int64
	Lease  *Lease // of its grant, nil where that is not known any more
}

// WaitOutcome says that a run ended and that the task waits for another.
type WaitOutcome struct {
	TaskID      string
	Run         int64         // the run that ended
	NextAttempt int           // the attempt that it waits for; the same one when no attempt was used
	Due         time.Time     // not before; zero = unknown. A hint for people and timers, never a fence
	Local       bool          // it waits in the worker at its own record: nothing is produced, nothing acknowledged
	History     []byte        // bounded failure history, kept with the claim
	Elsewhere   time.Duration // the run has not ended: it goes on outside, and is in doubt after so long a silence; 0 = it has
	Lease       *Lease        // of its grant
}

// DeadOutcome says that a task will not be tried again by itself.
type DeadOutcome struct {
	TaskID  string
	Epoch   int
	Attempt int
	Coord   Coord
	Run     int64  // the run that ended; 0 = it died before any grant (expired at intake, unknown kind)
	Reason  string // one of schemas.Reason; required
	History []byte
	Lease   *Lease // of its grant; nil = none
}

// Held is what a worker holds when Redis was lost: a run that goes on, or a
// wait at a record that it has not acknowledged.
type Held struct {
	Record            // Attempt: the attempt that runs or is waited for
	Run     int64     // the run granted, kept
	Crashes int       // as the grant's claim said
	Waiting bool      // it waits here (WaitOutcome.Local) and does not run
	Due     time.Time // Waiting
	History []byte

	Elsewhere time.Duration // Waiting: as in WaitOutcome
}

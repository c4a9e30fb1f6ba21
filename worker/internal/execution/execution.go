// Package execution is the seam between the worker's pipeline and what runs a
// task: a Go handler or an HTTP endpoint. Both pass the same conformance suite,
// executiontest.
//
// An Executor runs one attempt and says how it ended. It never retries, never
// claims, never touches Kafka or Redis, and never decides that a task is dead:
// it says that the failure is permanent, and the pipeline decides.
package execution

import (
	"context"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Attempt is one try of one task. It is read-only and valid until Execute
// returns; the payload aliases the Kafka record.
type Attempt struct {
	Task    *schemas.Task
	Kind    *schemas.Kind
	N       int    // the attempt, from 1
	Run     int64  // the run granted: the fence
	InDoubt bool   // an earlier owner went silent; its effect may have happened
	Notes   *Notes // where a handler in this process says more than its result; nil = nobody reads it
}

// Outcome says how an attempt ended.
type Outcome uint8

// The outcomes.
const (
	Completed     Outcome = iota + 1
	Retry                 // failed, and may succeed later: uses an attempt
	Permanent             // failed, and will fail again: the task dies
	Unknown               // nobody can say whether the effect happened; effects: once dies with reason unknown
	Again                 // did not really run (409, a stop): try later, no attempt used
	Misconfigured         // the endpoint is wrong or being deployed: its breaker opens, no attempt used
	Elsewhere             // it goes on outside, and its end is reported under this run

	outcomes
)

// Outcomes is one more than the highest.
const Outcomes = int(outcomes)

var names = [...]string{"", "completed", "retry", "permanent", "unknown", "again", "misconfigured", "elsewhere"}

// String returns the outcome's name in metrics.
func (o Outcome) String() string {
	if int(o) < len(names) {
		return names[o]
	}
	return "invalid"
}

// Result is how an attempt ended. The zero Result is invalid.
type Result struct {
	Outcome Outcome
	Class   string        // what the error is, without values: a Go type, a problem type, "HTTP 422"
	Message string        // the error's text
	Stack   string        // of a panic; its first line is the innermost frame
	After   time.Duration // not sooner than this; 0 = the kind's backoff alone

	Fingerprint string // what the handler calls the cause; "" = it is told by class, message and stack

	Value []byte // Completed: what it found, JSON; nil = nothing
}

// Executor runs attempts. It is safe for concurrent use. ctx ends at the
// attempt's timeout, at the task's deadline, or when the worker gives the
// attempt up; an Executor should then return at once.
type Executor interface {
	Execute(ctx context.Context, a *Attempt) Result
}

// Timeout bounds an attempt: the kind's timeout, or what is left to the
// deadline if that is less.
func Timeout(a *Attempt, now time.Time) time.Duration {
	d := a.Kind.Timeout
	if !a.Task.Deadline.IsZero() {
		d = min(d, a.Task.Deadline.Sub(now))
	}
	return d
}

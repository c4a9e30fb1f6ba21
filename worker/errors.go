package worker

// What a handler's error means.

import (
	"errors"
	"fmt"
	"reflect"
	"time"
)

// Permanent marks an error that will happen again: the task is not retried and
// becomes a dead letter. nil stays nil.
func Permanent(err error) error { return mark(err, marked{says: saysPermanent}) }

// RetryAfter marks a failure that should not be retried sooner than d. The
// attempt counts. nil stays nil.
func RetryAfter(d time.Duration, err error) error {
	return mark(err, marked{says: saysRetry, after: d})
}

// Unknown marks a failure after which nobody can say whether the effect
// happened. Kinds with effects: once go to their reconcile hook, or become dead
// letters with reason unknown; other kinds are run again. nil stays nil.
func Unknown(err error) error { return mark(err, marked{says: saysUnknown}) }

// Pending is what a handler returns when it has handed the work to somebody who
// will report its end: POST /v1/tasks/{id}/outcome with the task's id and Run.
// The task is not completed and holds no slot. Until its end is reported it must
// be heard of (…/heartbeat) within the kind's heartbeat_timeout, 1 h if the kind
// has none: after a longer silence it is in doubt, and run again (effects:
// idempotent or fenced) or dead with reason unknown (effects: once).
func Pending() error { return errPending }

var errPending error = &marked{err: errors.New("the work goes on elsewhere"), says: saysPending}

// Fingerprint names the cause of a failure: dead letters of one kind with the
// same s stand in one failure group, whatever their errors' texts are. It says
// nothing about a retry and goes together with the other marks, in any order:
//
//	return worker.Permanent(worker.Fingerprint(err, "card-declined"))
//
// An s that holds an id, or anything else that changes from task to task, makes
// a group of each letter. An empty s names nothing; nil stays nil.
func Fingerprint(err error, s string) error { return mark(err, marked{fingerprint: s}) }

// PanicError is what a middleware gets from next when the handler panicked.
type PanicError struct {
	Value any    // what the handler panicked with
	Stack string // innermost frame first, one frame a line
}

// Error is "panic: " and the value.
func (e *PanicError) Error() string { return fmt.Sprint("panic: ", e.Value) }

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

type meaning uint8

const (
	saysNothing meaning = iota
	saysRetry
	saysPermanent
	saysUnknown
	saysPending
)

// marked is an error with one mark; marks are put around each other.
type marked struct {
	err         error
	says        meaning
	after       time.Duration // saysRetry
	fingerprint string
}

func mark(err error, m marked) error {
	if err == nil {
		return nil
	}
	m.err = err
	return &m
}

func (m *marked) Error() string { return m.err.Error() }
func (m *marked) Unwrap() error { return m.err }

// marksOf collects the marks in err's tree, in the order of errors.As: of what
// the outcome is, and of the fingerprint, the outermost counts.
func marksOf(err error) (all marked) {
	walk(err, func(err error) bool {
		m, ok := err.(*marked) //nolint:errorlint // walking the tree, one by one
		if !ok {
			return true
		}
		if all.says == saysNothing {
			all.says, all.after = m.says, m.after
		}
		if all.fingerprint == "" {
			all.fingerprint = m.fingerprint
		}
		return all.says == saysNothing || all.fingerprint == ""
	})
	return all
}

// walk visits err and what it wraps, outermost first, until visit returns false.
func walk(err error, visit func(error) bool) bool {
	for err != nil {
		if !visit(err) {
			return false
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // walking the tree
			for _, one := range many.Unwrap() {
				if !walk(one, visit) {
					return false
				}
			}
			return true
		}
		err = errors.Unwrap(err)
	}
	return true
}

// errorClass names an error by the type that says most: the innermost one that
// is not a plain text. A marker says nothing about the cause.
func errorClass(err error) string {
	class := ""
	for ; err != nil; err = errors.Unwrap(err) {
		if _, ok := err.(*marked); ok { //nolint:errorlint // walking the chain, one by one
			continue
		}
		name := reflect.TypeOf(err).String()
		switch name {
		case "*errors.errorString", "*fmt.wrapError", "*fmt.wrapErrors", "*errors.joinError":
			if class == "" {
				class = "error"
			}
		default:
			class = name
		}
	}
	return class
}

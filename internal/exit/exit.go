// Package exit says with which code a command ends: 0 done, 1 failed, 2 used
// wrongly, 3 refused by a safety check, 4 to be started again. Scripts rely on the difference.
package exit

import "errors"

// The exit codes.
const (
	Done    = 0
	Failed  = 1
	Wrong   = 2 // usage: nothing was tried
	Refused = 3 // a safety check said no: nothing was changed
	Again   = 4 // it ended itself, to be started again
)

type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// Restart marks err as why a process ended itself that is to be started again.
// nil stays nil.
func Restart(err error) error { return mark(err, Again) }

// Usage marks err as a mistake in how the command was called. nil stays nil.
func Usage(err error) error { return mark(err, Wrong) }

// Refusal marks err as the answer of a safety check. nil stays nil.
func Refusal(err error) error { return mark(err, Refused) }

func mark(err error, code int) error {
	if err == nil {
		return nil
	}
	return coded{err, code}
}

// Code is the exit code for what a command returned.
func Code(err error) int {
	var c coded
	switch {
	case err == nil:
		return Done
	case errors.As(err, &c):
		return c.code
	default:
		return Failed
	}
}

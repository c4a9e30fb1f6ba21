package worker

// What a handler's error means.

import (
	"errors"
	"reflect"
	"time"
)

// Permanent marks an error that will happen again: the task is not retried and
// becomes a dead letter. nil stays nil.
func Permanent(err error) error { return mark(err, &marked{permanent: true}) }

// RetryAfter marks a failure that should not be retried sooner than d. The
// attempt counts. nil stays nil.
func RetryAfter(d time.Duration, err error) error { return mark(err, &marked{after: d}) }

// Unknown marks a failure after which nobody can say whether the effect
// happened. Kinds with effects: once become dead letters with reason unknown;
// other kinds are run again. nil stays nil.
func Unknown(err error) error { return mark(err, &marked{unknown: true}) }

type marked struct {
	err       error
	permanent bool
	unknown   bool
	after     time.Duration
}

func mark(err error, m *marked) error {
	if err == nil {
		return nil
	}
	m.err = err
	return m
}

func (m *marked) Error() string { return m.err.Error() }
func (m *marked) Unwrap() error { return m.err }

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

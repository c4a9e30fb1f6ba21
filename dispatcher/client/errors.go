package client

// The errors that a caller decides by.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/perdure/perdure/schemas"
)

// Sentinels for errors.Is.
var (
	// ErrUnknownKind: the kind is not in the catalog; wrapped by an *InvalidError.
	ErrUnknownKind = errors.New("kind is not in the catalog")
	// ErrTooLarge: the payload is over the kind's limit; wrapped by an *InvalidError.
	ErrTooLarge = errors.New("payload is too large")
	// ErrKeyReuse: the idempotency key was used with another payload.
	ErrKeyReuse = errors.New("idempotency key was used with another payload")
	// ErrStillCommitting: the first use of the key has not committed; try later.
	ErrStillCommitting = errors.New("the first task with this idempotency key is still committing")
	// ErrSerialization: the transaction lost against another (SQLSTATE 40001 or
	// 40P01) and must be run again by who began it.
	ErrSerialization = errors.New("transaction must be run again")
	// ErrUnavailable: Postgres did not answer. Whether the task was accepted is
	// not known; with an IdempotencyKey it is safe to try again. The same holds for
	// context.Canceled, which is told as itself.
	ErrUnavailable = errors.New("postgres does not answer")
	// ErrNotMigrated: the database lacks Perdure's tables or its source's name.
	ErrNotMigrated = errors.New("database is not migrated: run `perdure migrate up`")
)

// InvalidError says what is wrong with a task; nothing was written.
type InvalidError struct {
	Errors []schemas.FieldError // never empty; pointers into the task, as "#/payload/amount"
	cause  error                // a sentinel, or nil
}

// Error lists every mistake, without the values.
func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("invalid task: ")
	for i, f := range e.Errors {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.TrimPrefix(f.Pointer, "#/") + " " + f.Detail)
	}
	return b.String()
}

// Unwrap gives ErrUnknownKind or ErrTooLarge where that is what is wrong.
func (e *InvalidError) Unwrap() error { return e.cause }

// TaskError is the error of one task among many.
type TaskError struct {
	Index int // from 0
	Err   error
}

// TaskErrors says for every refused task of EnqueueMany why; none of the others
// was accepted either.
type TaskErrors []TaskError

// Error tells the first and counts the rest.
func (e TaskErrors) Error() string {
	s := fmt.Sprintf("task %d: %v", e[0].Index, e[0].Err)
	if len(e) > 1 {
		s += fmt.Sprintf(" (and %d more)", len(e)-1)
	}
	return s
}

// Unwrap is for errors.Is and errors.As.
func (e TaskErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i := range e {
		errs[i] = e[i].Err
	}
	return errs
}

// sqlState is the SQLSTATE of an error from any Postgres driver, else "".
func sqlState(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

// wrap says what was being done, and which sentinel a Postgres error is.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	var sentinel error
	switch state := sqlState(err); {
	case state == "55P03":
		sentinel = ErrStillCommitting
	case state == "40001", state == "40P01":
		sentinel = ErrSerialization
	case state == "42P01", state == "3F000":
		sentinel = ErrNotMigrated
	case strings.HasPrefix(state, "08"), strings.HasPrefix(state, "57P"), strings.HasPrefix(state, "53"), state == "25006":
		sentinel = ErrUnavailable // gone, shutting down, out of resources, read-only after a failover
	case state == "" && unreachable(err):
		sentinel = ErrUnavailable
	default:
		return fmt.Errorf("enqueue: %s: %w", doing, err)
	}
	return fmt.Errorf("enqueue: %s: %w: %w", doing, sentinel, err)
}

func unreachable(err error) bool {
	var n net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &n), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	}
	return strings.Contains(err.Error(), "conn closed") // pgconn's own, without a type
}

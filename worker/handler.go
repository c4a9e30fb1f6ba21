package worker

// Handlers in Go: what they are given, and how one attempt is run.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
	"github.com/perdure/perdure/worker/internal/httpexec"
)

// Task is what a handler is given. It is valid until the handler returns.
type Task[T any] struct {
	ID       string // <source>-<generation>-<seq>
	Kind     string
	Key      string // "" = none
	Queue    string
	Attempt  int       // from 1
	Epoch    int       // grows by one with each replay
	Run      int64     // the fence: higher than at every earlier start of this task
	Deadline time.Time // zero = none
	Repair   int       // how often a replay repaired the payload; 0 = it is the producer's
	InDoubt  bool      // an earlier worker went silent while it ran this task: its effect may have happened
	Payload  T         // decoded from JSON; a []byte or json.RawMessage is as it came
	Headers  map[string]string

	notes *execution.Notes // nil = it is not running: a reconcile hook's
}

// TaskID returns ID; with RunNumber it makes a Task what the inbox needs.
func (t *Task[T]) TaskID() string { return t.ID }

// IdempotencyKey is what to give a downstream: ID, and after the n-th repair
// <ID>-r<n>, because another payload is another request.
func (t *Task[T]) IdempotencyKey() string {
	return (&schemas.Task{ID: t.ID, Repair: t.Repair}).IdempotencyKey()
}

// RunNumber returns Run.
func (t *Task[T]) RunNumber() int64 { return t.Run }

// Fence returns Run, decimal and zero-padded to 19 digits: a downstream that
// compares fences as strings refuses every lower one.
func (t *Task[T]) Fence() string { return httpexec.Fence(t.Run) }

// Handle registers fn for a kind of w's catalog; call it before Run. A mistake
// (an unknown kind, a kind with an executor of its own, a second handler) is
// returned by Run, so that a list of Handle calls needs no error checks.
//
// fn returns nil when the task is done. An error is retried by the kind's
// policy unless marked by Permanent, RetryAfter or Unknown, and grouped by its
// type and text unless marked by Fingerprint; a panic counts as an error. ctx ends at the attempt's timeout, the deadline, or a stop's end of
// grace: a handler that does not return then is abandoned and counted.
// Payloads that are not the JSON of a T are permanent failures.
func Handle[T any](w *Worker, kind string, fn func(context.Context, *Task[T]) error) {
	w.register(kind, goHandler[T]{fn, &w.around})
}

// goHandler is a handler as an Executor.
type goHandler[T any] struct {
	fn     func(context.Context, *Task[T]) error
	around *around // its worker's middleware; nil = none
}

// Execute implements execution.Executor.
func (h goHandler[T]) Execute(ctx context.Context, a *execution.Attempt) (r execution.Result) {
	if h.around != nil && len(h.around.list) > 0 {
		return h.executeAround(ctx, a)
	}
	c := call[T]{fn: h.fn, a: a}
	defer func() {
		if p := recover(); p != nil { // also of a payload's own UnmarshalJSON
			r = c.judge(ctx, &PanicError{Value: p, Stack: stack()})
		}
	}()
	return c.judge(ctx, c.run(ctx, a.Task.Payload))
}

// executeAround is Execute with middleware.
func (h goHandler[T]) executeAround(ctx context.Context, a *execution.Attempt) (r execution.Result) {
	c := call[T]{fn: h.fn, a: a}
	defer func() {
		if p := recover(); p != nil { // a middleware's
			r = c.judge(ctx, &PanicError{Value: p, Stack: stack()})
		}
	}()
	raw := newTask[[]byte](a)
	raw.Payload = a.Task.Payload
	return c.judge(ctx, h.around.call(ctx, &raw, 0, func(ctx context.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				c.panicked = true
				err = &PanicError{Value: p, Stack: stack()}
			}
		}()
		return c.run(ctx, raw.Payload)
	}))
}

func newTask[T any](a *execution.Attempt) Task[T] {
	return Task[T]{
		ID: a.Task.ID, Kind: a.Task.Kind, Key: a.Task.Key, Queue: a.Task.Queue,
		Attempt: a.N, Epoch: a.Task.Epoch, Run: a.Run, InDoubt: a.InDoubt, Repair: a.Task.Repair,
		Deadline: a.Task.Deadline, Headers: a.Task.Headers, notes: a.Notes,
	}
}

// call is one attempt under way.
type call[T any] struct {
	fn       func(context.Context, *Task[T]) error
	a        *execution.Attempt
	began    bool // the handler was called: its effect may have happened
	panicked bool // the handler did, whatever a middleware made of it
}

// run decodes the payload and calls the handler.
func (c *call[T]) run(ctx context.Context, payload []byte) error {
	t := newTask[T](c.a)
	if err := decodePayload(payload, &t.Payload); err != nil {
		return Permanent(&payloadError{err})
	}
	c.began = true
	return c.fn(ctx, &t)
}

// judge says what the attempt's error means.
func (c *call[T]) judge(ctx context.Context, err error) execution.Result {
	if err == nil {
		r := execution.Result{Outcome: execution.Completed}
		if c.a.Notes != nil {
			r.Value = c.a.Notes.Value()
		}
		return r
	}
	marks := marksOf(err)
	r := execution.Result{Outcome: execution.Retry, Class: errorClass(err), Message: err.Error(), Fingerprint: marks.fingerprint}
	var p *PanicError
	if errors.As(err, &p) {
		r.Class, r.Stack = "panic", p.Stack
		if cause, ok := p.Value.(error); ok {
			r.Class = "panic: " + errorClass(cause)
		}
		r.Message = strings.TrimPrefix(r.Message, "panic: ")
	}
	var undecoded *payloadError
	if errors.As(err, &undecoded) {
		r.Class = "payload"
	}
	once := c.a.Kind.Effects == schemas.EffectsOnce && c.began
	switch {
	case marks.says == saysPending:
		return execution.Result{Outcome: execution.Elsewhere}
	case marks.says == saysPermanent:
		r.Outcome = execution.Permanent
	case marks.says == saysUnknown:
		r.Outcome = execution.Unknown
	case once && (p != nil || c.panicked || ctx.Err() != nil):
		// It was cut off: whatever it called may have gone through.
		r.Outcome = execution.Unknown
	case marks.says == saysRetry:
		r.After = marks.after
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(err, context.DeadlineExceeded) {
		r.Class = "timeout"
	}
	return r
}

// payloadError is a payload that does not decode.
type payloadError struct{ error }

// decodePayload fills dst from JSON, or as it is for raw types.
func decodePayload(payload []byte, dst any) error {
	switch p := dst.(type) {
	case *[]byte:
		*p = payload
		return nil
	case *json.RawMessage:
		*p = payload
		return nil
	}
	if err := json.Unmarshal(payload, dst); err != nil {
		// The message names field and type; encoding/json shows no values but
		// the offending character and number.
		return fmt.Errorf("payload does not decode into %T: %w", dst, err)
	}
	return nil
}

// stack is the panicking goroutine's, innermost frame first, one frame a line.
func stack() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var b strings.Builder
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") && f.Function != "" {
			fmt.Fprintf(&b, "%s %s:%d\n", f.Function, f.File, f.Line)
		}
		if !more {
			return b.String()
		}
	}
}

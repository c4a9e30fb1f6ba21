// Package workertest tests handlers with no servers: no Kafka, no Redis, no
// Postgres, and, inside testing/synctest, no real time.
//
//	func TestRefusesAnEmptyAddress(t *testing.T) {
//		o := workertest.Run(t, sendEmail, Email{To: ""})
//		if o.Result != schemas.OutcomeDead {
//			t.Errorf("%+v", o)
//		}
//	}
//
// One attempt is run and judged exactly as a worker does. It keeps no claims and
// no order: what those promise is the worker's to test, not a handler's.
package workertest

import (
	"encoding/json"
	"testing"
	"time"

	"context"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// Option changes what Run starts from: the first attempt of a kind with the
// catalog's defaults.
type Option func(*setup)

type setup struct {
	ctx     context.Context
	kind    schemas.Kind
	task    schemas.Task
	attempt int
	run     int64
}

// Kind takes timeout, effects and retry from a kind of the catalog.
func Kind(k *schemas.Kind) Option {
	return func(s *setup) { s.kind = *k }
}

// Attempt sets which attempt it is, from 1.
func Attempt(n int) Option { return func(s *setup) { s.attempt = n } }

// Fence sets the run that the attempt is granted.
func Fence(run int64) Option { return func(s *setup) { s.run = run } }

// Timeout bounds the attempt.
func Timeout(d time.Duration) Option { return func(s *setup) { s.kind.Timeout = d } }

// Once makes the kind one with effects: once.
func Once() Option { return func(s *setup) { s.kind.Effects = schemas.EffectsOnce } }

// Deadline sets the task's deadline.
func Deadline(t time.Time) Option { return func(s *setup) { s.task.Deadline = t } }

// Key sets the task's key.
func Key(key string) Option { return func(s *setup) { s.task.Key = key } }

// ID sets the task's id; default "test-1-1".
func ID(id string) Option { return func(s *setup) { s.task.ID = id } }

// Context gives the handler's context a parent; default the test's own.
func Context(ctx context.Context) Option { return func(s *setup) { s.ctx = ctx } }

// Run runs one attempt of handler with payload, through JSON as a worker would
// decode it, and says what a worker would do then. A []byte or json.RawMessage
// is passed as it is.
func Run[T any](t testing.TB, handler func(context.Context, *worker.Task[T]) error, payload T, options ...Option) worker.Outcome {
	t.Helper()
	var raw []byte
	switch p := any(payload).(type) {
	case []byte:
		raw = p
	case json.RawMessage:
		raw = p
	default:
		var err error
		if raw, err = json.Marshal(payload); err != nil {
			t.Fatalf("workertest: payload: %v", err)
		}
	}
	return RunRaw(t, handler, raw, options...)
}

// RunRaw is Run with a payload as it stands on the wire: for payloads that a
// producer got wrong.
func RunRaw[T any](t testing.TB, handler func(context.Context, *worker.Task[T]) error, payload []byte, options ...Option) worker.Outcome {
	t.Helper()
	s := setup{
		ctx: t.Context(), attempt: 1, run: 1,
		kind: schemas.Kind{
			Name: "test", Queue: "test", Timeout: schemas.DefaultTimeout, Effects: schemas.EffectsIdempotent,
			Retry: schemas.Retry{MaxAttempts: schemas.DefaultMaxAttempts, InitialDelay: schemas.DefaultInitialDelay, MaxDelay: schemas.DefaultMaxDelay},
		},
		task: schemas.Task{ID: "test-1-1", Time: time.Now()},
	}
	for _, o := range options {
		o(&s)
	}
	s.task.Kind, s.task.Queue, s.task.Payload, s.task.Attempt = s.kind.Name, s.kind.Queue, payload, s.attempt
	return worker.Try(s.ctx, &s.kind, &s.task, s.attempt, s.run, handler)
}

// Package workertest tests handlers with no servers: no Kafka, no Redis, no
// Postgres, and, inside testing/synctest, no real time.
//
// Run runs one attempt and says what a worker would do then:
//
//	func TestRefusesAnEmptyAddress(t *testing.T) {
//		o := workertest.Run(t, sendEmail, Email{To: ""})
//		if o.Reason != schemas.ReasonPermanent {
//			t.Errorf("%+v", o)
//		}
//	}
//
// Play runs a task until it is completed or dead, through retries, backoff,
// timeouts, deadline and, if asked, workers that are killed. Inside
// synctest.Test a day of backoff takes no time, and every delay is exact:
//
//	func TestIsPaidOnceThoughAWorkerDies(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			bank := newFakeBank()
//			s := workertest.Play(t, bank.refund, Refund{Amount: 5}, workertest.Crash(1))
//			if s.Result != schemas.OutcomeCompleted || bank.refunds != 1 {
//				t.Errorf("%v: refunded %d times", s, bank.refunds)
//			}
//		})
//	}
//
// New takes a program's own setup function, and so tests its handlers under the
// kinds, middleware and catalog that they have in production.
//
// What is judged here is judged by the worker's own code. There are no claims,
// no order and no other tasks: what those promise is the worker's to test.
package workertest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// Option changes what a test starts from: the first attempt of a kind with the
// catalog's defaults.
type Option func(*setup)

type setup struct {
	ctx     context.Context
	kind    schemas.Kind
	task    schemas.Task
	attempt int
	run     int64
	inDoubt bool
	around  []worker.Middleware
	jitter  float64
	crashes map[int]bool
	hook    func() (v worker.Verdict, asked bool, err error)
	checked bool // the kind's schema is the catalog's
}

// Kind takes schema, timeout, effects, expiry and retry from a kind of the catalog.
func Kind(k *schemas.Kind) Option {
	return func(s *setup) { s.kind, s.checked = *k, true }
}

// Attempt sets which attempt it is, from 1.
func Attempt(n int) Option { return func(s *setup) { s.attempt = n } }

// Fence sets the run that the attempt is granted; of Play, the first one.
func Fence(run int64) Option { return func(s *setup) { s.run = run } }

// InDoubt tells the handler that an earlier worker went silent while it ran this
// task: its effect may have happened.
func InDoubt() Option { return func(s *setup) { s.inDoubt = true } }

// Timeout bounds each attempt.
func Timeout(d time.Duration) Option { return func(s *setup) { s.kind.Timeout = d } }

// Queued lets the task wait for d before a worker turns to it: it was enqueued, and
// could have begun, so long ago. In a Play, one whose first attempt would begin later
// than its kind's start_within ends without a start.
func Queued(d time.Duration) Option {
	return func(s *setup) { s.task.Time = time.Now().Add(-d) }
}

// StartWithin bounds how late the first attempt may begin.
func StartWithin(d time.Duration) Option { return func(s *setup) { s.kind.StartWithin = d } }

// Attempts sets how many attempts the task has.
func Attempts(n int) Option { return func(s *setup) { s.kind.Retry.MaxAttempts = n } }

// Backoff sets the first and the longest delay between attempts.
func Backoff(initial, longest time.Duration) Option {
	return func(s *setup) { s.kind.Retry.InitialDelay, s.kind.Retry.MaxDelay = initial, longest }
}

// Once makes the kind one with effects: once.
func Once() Option { return func(s *setup) { s.kind.Effects = schemas.EffectsOnce } }

// Deadline sets the task's deadline.
func Deadline(t time.Time) Option { return func(s *setup) { s.task.Deadline = t } }

// Key sets the task's key.
func Key(key string) Option { return func(s *setup) { s.task.Key = key } }

// ID sets the task's id; default "test-1-1".
func ID(id string) Option { return func(s *setup) { s.task.ID = id } }

// Header sets one of the producer's headers.
func Header(name, value string) Option {
	return func(s *setup) {
		if s.task.Headers == nil {
			s.task.Headers = map[string]string{}
		}
		s.task.Headers[name] = value
	}
}

// Use puts middleware around the handler, the first outermost. Not for New: the
// setup function has its own.
func Use(middleware ...worker.Middleware) Option {
	return func(s *setup) { s.around = append(s.around, middleware...) }
}

// Context gives the handler's context a parent; default the test's own.
func Context(ctx context.Context) Option { return func(s *setup) { s.ctx = ctx } }

// Jitter is which part of the longest delay Play waits, above 0 up to 1 (the
// default). A worker chooses any.
func Jitter(part float64) Option { return func(s *setup) { s.jitter = part } }

// Crash lets the worker be killed at the given starts of the handler, counted
// from 1: the handler runs to its end, its effects happen, and nobody learns
// what it returned. For Play.
func Crash(starts ...int) Option {
	return func(s *setup) {
		if s.crashes == nil {
			s.crashes = map[int]bool{}
		}
		for _, n := range starts {
			s.crashes[n] = true
		}
	}
}

// Reconcile asks fn, in a Play of effects: once, whether an effect in doubt
// happened. Not for New: the setup function registers its own.
func Reconcile[T any](fn func(context.Context, *worker.Task[T]) (worker.Verdict, error)) Option {
	return func(s *setup) {
		s.hook = func() (worker.Verdict, bool, error) {
			v, err := worker.TryReconcile(s.ctx, s.trial(), fn)
			return v, true, err
		}
	}
}

// Run runs one attempt of handler with payload, through JSON as a worker would
// decode it, and says what a worker would do then. A []byte or json.RawMessage
// is passed as it is. A payload that the schema of the Kind refuses fails the
// test: such a task is never accepted.
func Run[T any](t testing.TB, handler func(context.Context, *worker.Task[T]) error, payload T, options ...Option) worker.Outcome {
	t.Helper()
	s := newSetup(t, options)
	s.accept(t, encode(t, payload))
	return worker.Try(s.ctx, s.trial(), handler, s.around...)
}

// RunRaw is Run with a payload as it stands on the wire: for payloads that a
// producer got wrong.
func RunRaw[T any](t testing.TB, handler func(context.Context, *worker.Task[T]) error, payload []byte, options ...Option) worker.Outcome {
	t.Helper()
	s := newSetup(t, options)
	s.task.Payload = payload
	return worker.Try(s.ctx, s.trial(), handler, s.around...)
}

func newSetup(t testing.TB, options []Option) *setup {
	s := &setup{
		ctx: t.Context(), attempt: 1, run: 1, jitter: 1,
		kind: schemas.Kind{
			Name: "test", Queue: "test", Timeout: schemas.DefaultTimeout, Effects: schemas.EffectsIdempotent,
			Retry: schemas.Retry{MaxAttempts: schemas.DefaultMaxAttempts, InitialDelay: schemas.DefaultInitialDelay, MaxDelay: schemas.DefaultMaxDelay},
		},
		task: schemas.Task{ID: "test-1-1", Time: time.Now(), ContentType: schemas.JSONContentType},
	}
	for _, o := range options {
		o(s)
	}
	s.task.Kind, s.task.Queue = s.kind.Name, s.kind.Queue
	if d := s.kind.ExpiresAfter; d > 0 {
		if at := s.task.Time.Add(d); s.task.Deadline.IsZero() || at.Before(s.task.Deadline) {
			s.task.Deadline = at
		}
	}
	return s
}

// encode gives the JSON of a payload, or the payload where it is raw.
func encode(t testing.TB, payload any) []byte {
	t.Helper()
	switch p := payload.(type) {
	case []byte:
		return p
	case json.RawMessage:
		return p
	}
	raw, err := json.Marshal(payload)
	if err != nil {
		t.Fatalf("workertest: payload: %v", err)
	}
	return raw
}

// accept checks a payload as the dispatcher would, and takes it.
func (s *setup) accept(t testing.TB, payload []byte) {
	t.Helper()
	s.task.Payload = payload
	if !s.checked {
		return
	}
	for _, e := range s.kind.ValidatePayload(payload, s.task.ContentType) {
		t.Errorf("workertest: the schema of %s refuses the payload: %s: %s", s.kind.Name, e.Pointer, e.Detail)
	}
}

func (s *setup) trial() worker.Trial {
	s.task.Attempt = s.attempt
	return worker.Trial{Kind: &s.kind, Task: &s.task, Attempt: s.attempt, Run: s.run, InDoubt: s.inDoubt}
}

package worker

// One attempt without a worker: what workertest is made of.

import (
	"context"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// Outcome says how one attempt ended, as the worker would judge it.
type Outcome struct {
	Result  schemas.Outcome // completed, retry, dead, unknown
	Reason  schemas.Reason  // of a dead one: permanent, exhausted, expired, unknown
	Class   string          // what the error is, without values
	Message string          // the error's text
	Stack   string          // of a panic
	Delay   time.Duration   // retry: the longest that the backoff may choose, at least what the error asked for
}

// Try runs one attempt of a handler and judges it as a worker does: timeout and
// deadline, panics, marked errors, attempts used up, effects: once. It needs no
// servers; package workertest wraps it for tests. The handler runs on the
// caller's goroutine. attempt counts from 1, run is the fence.
func Try[T any](ctx context.Context, k *schemas.Kind, t *schemas.Task, attempt int, run int64, fn func(context.Context, *Task[T]) error) Outcome {
	a := &execution.Attempt{Task: t, Kind: k, N: attempt, Run: run}
	now := time.Now()
	if t.Expired(now) {
		return Outcome{Result: schemas.OutcomeDead, Reason: schemas.ReasonExpired, Class: "expired", Message: "the deadline passed before the task could run"}
	}
	ctx, cancel := context.WithDeadline(ctx, now.Add(execution.Timeout(a, now)))
	defer cancel()
	r := goHandler[T]{fn}.Execute(ctx, a)
	o := Outcome{Class: r.Class, Message: r.Message, Stack: r.Stack}
	switch {
	case r.Outcome == execution.Completed:
		o.Result = schemas.OutcomeCompleted
	case r.Outcome == execution.Permanent:
		o.Result, o.Reason = schemas.OutcomeDead, schemas.ReasonPermanent
	case r.Outcome == execution.Unknown && k.Effects == schemas.EffectsOnce:
		o.Result, o.Reason = schemas.OutcomeUnknown, schemas.ReasonUnknown
	case attempt >= k.Retry.MaxAttempts:
		o.Result, o.Reason = schemas.OutcomeDead, schemas.ReasonExhausted
	default:
		o.Result, o.Delay = schemas.OutcomeRetry, max(backoffCeiling(k.Retry, attempt), r.After)
		if t.Expired(time.Now().Add(r.After)) {
			o.Result, o.Reason, o.Delay = schemas.OutcomeDead, schemas.ReasonExpired, 0
		}
	}
	return o
}

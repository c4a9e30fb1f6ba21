package worker

// One attempt without a worker: what workertest is made of.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/perdure/perdure/internal/reconcile"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// Outcome says how one attempt ended, as the worker would judge it.
type Outcome struct {
	Result      schemas.Outcome // completed, retry, dead, unknown, pending
	Reason      schemas.Reason  // of a dead one: permanent, exhausted, expired, unknown
	Class       string          // what the error is, without values
	Message     string          // the error's text
	Stack       string          // of a panic
	Fingerprint string          // what the handler called the cause; "" = it did not
	Delay       time.Duration   // retry: the longest that the backoff may choose, at least After
	After       time.Duration   // retry: what the error asked for
	Value       json.RawMessage // completed: what SetResult was given last; nil = nothing
	Progress    json.RawMessage // what Heartbeat was given last; nil = nothing
}

// Trial is one attempt to be tried. Kind and Task are required.
type Trial struct {
	Kind    *schemas.Kind
	Task    *schemas.Task
	Attempt int   // from 1
	Run     int64 // the fence
	InDoubt bool  // an earlier worker went silent while it ran this task
}

// Try runs one attempt of a handler and judges it as a worker does: timeout and
// deadline, a handler that ignores its context, panics, marked errors, attempts
// used up, effects: once. It needs no servers; package workertest wraps it for
// tests. It does not wait for a handler that it abandons.
func Try[T any](ctx context.Context, tr Trial, fn func(context.Context, *Task[T]) error, middleware ...Middleware) Outcome {
	return try(ctx, tr, goHandler[T]{fn, &around{middleware}})
}

func try(ctx context.Context, tr Trial, x execution.Executor) Outcome {
	a := &execution.Attempt{Task: tr.Task, Kind: tr.Kind, N: tr.Attempt, Run: tr.Run, InDoubt: tr.InDoubt, Notes: &execution.Notes{}}
	now := time.Now()
	if tr.Task.Expired(now) {
		return Outcome{Result: schemas.OutcomeDead, Reason: schemas.ReasonExpired, Class: "expired", Message: "the deadline passed before the task could run"}
	}
	r := executeOnce(ctx, now.Add(execution.Timeout(a, now)), x, a)
	o := Outcome{Class: r.Class, Message: r.Message, Stack: r.Stack, Fingerprint: r.Fingerprint, Value: r.Value, Progress: a.Notes.TakeProgress()}
	switch {
	case r.Outcome == execution.Completed:
		o.Result = schemas.OutcomeCompleted
	case r.Outcome == execution.Elsewhere:
		o.Result = schemas.OutcomePending
	case r.Outcome == execution.Permanent:
		o.Result, o.Reason = schemas.OutcomeDead, schemas.ReasonPermanent
	case r.Outcome == execution.Unknown && tr.Kind.Effects == schemas.EffectsOnce:
		o.Result, o.Reason = schemas.OutcomeUnknown, schemas.ReasonUnknown
	case tr.Attempt >= tr.Kind.Retry.MaxAttempts:
		o.Result, o.Reason = schemas.OutcomeDead, schemas.ReasonExhausted
	default:
		o.Result, o.Delay, o.After = schemas.OutcomeRetry, max(backoffCeiling(tr.Kind.Retry, tr.Attempt), r.After), r.After
		if tr.Task.Expired(time.Now().Add(r.After)) {
			o.Result, o.Reason, o.Delay, o.After = schemas.OutcomeDead, schemas.ReasonExpired, 0, 0
		}
	}
	return o
}

// executeOnce runs an attempt on a goroutine of its own, and gives it up where
// the worker would.
func executeOnce(ctx context.Context, deadline time.Time, x execution.Executor, a *execution.Attempt) execution.Result {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	ended := make(chan struct{})
	var r execution.Result
	go func() {
		defer close(ended)
		r = x.Execute(ctx, a)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		grace := time.NewTimer(DefaultAbandonAfter)
		defer grace.Stop()
		select {
		case <-ended:
		case <-grace.C:
			return abandoned(a.Kind)
		}
	}
	if r.Outcome == 0 {
		runtime.Goexit() // so did the handler: a test's FailNow or SkipNow
	}
	return r
}

const classAbandoned = "abandoned"

// abandoned is the result of an attempt whose handler ignores its context.
func abandoned(k *schemas.Kind) execution.Result {
	r := execution.Result{
		Outcome: execution.Retry, Class: classAbandoned,
		Message: "the handler did not return after its context ended",
	}
	if k.Effects == schemas.EffectsOnce {
		r.Outcome = execution.Unknown
	}
	return r
}

// TryReconcile asks a reconcile hook about a trial's task as a worker does.
func TryReconcile[T any](ctx context.Context, tr Trial, fn func(context.Context, *Task[T]) (Verdict, error)) (Verdict, error) {
	return ask(ctx, tr, goHook[T]{fn})
}

func ask(ctx context.Context, tr Trial, h reconcile.Hook) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, tr.Kind.Timeout)
	defer cancel()
	return h.Ask(ctx, &reconcile.Question{Task: tr.Task, Attempt: tr.Attempt, Run: tr.Run})
}

// Rehearsal is a worker that is connected to nothing: its handlers and
// middleware as a program's setup registers them.
type Rehearsal struct{ w *Worker }

// Rehearse runs setup as Main does, and says what Run would refuse: a kind that
// the catalog does not have, a second handler. Kinds with an executor of their
// own are not rehearsed.
func Rehearse(catalog *schemas.Catalog, setup func(*Worker) error) (*Rehearsal, error) {
	w := &Worker{deps: Deps{Catalog: catalog}, handlers: map[string]execution.Executor{}}
	if err := setup(w); err != nil {
		return nil, fmt.Errorf("set up handlers: %w", err)
	}
	if err := errors.Join(append(w.mistakes, missingHandlers(w.unhandled(w.Queues())))...); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return &Rehearsal{w}, nil
}

// Try is Try with the handler that was registered for the trial's kind, and its
// middleware. An error says that there is none.
func (r *Rehearsal) Try(ctx context.Context, tr Trial) (Outcome, error) {
	x := r.w.handlers[tr.Kind.Name]
	if x == nil {
		return Outcome{}, fmt.Errorf("worker: no handler is registered for %s", tr.Kind.Name)
	}
	return try(ctx, tr, x), nil
}

// Reconcile asks the hook that was registered for the trial's kind; asked is
// false if none was.
func (r *Rehearsal) Reconcile(ctx context.Context, tr Trial) (v Verdict, asked bool, err error) {
	h := r.w.hooks[tr.Kind.Name]
	if h == nil {
		return CannotTell, false, nil
	}
	v, err = ask(ctx, tr, h)
	return v, true, err
}

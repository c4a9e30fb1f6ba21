package worker

// Marks and middleware, on a handler alone.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// executed runs one attempt of a handler inside middleware.
func executed(t *testing.T, effects schemas.Effects, payload string, fn func(context.Context, *Task[map[string]int]) error, m ...Middleware) execution.Result {
	t.Helper()
	h := goHandler[map[string]int]{fn, &around{m}}
	return h.Execute(t.Context(), &execution.Attempt{
		Task: &schemas.Task{ID: "main-1-7", Kind: "k", Payload: []byte(payload)},
		Kind: &schemas.Kind{Name: "k", Effects: effects}, N: 1, Run: 9,
	})
}

func TestMarksGoTogetherInAnyOrder(t *testing.T) {
	cause := errors.New("declined")
	for name, c := range map[string]struct {
		err         error
		outcome     execution.Outcome
		after       time.Duration
		fingerprint string
	}{
		"fingerprint alone":       {Fingerprint(cause, "f"), execution.Retry, 0, "f"},
		"permanent outside":       {Permanent(Fingerprint(cause, "f")), execution.Permanent, 0, "f"},
		"permanent inside":        {Fingerprint(Permanent(cause), "f"), execution.Permanent, 0, "f"},
		"between":                 {Fingerprint(fmt.Errorf("pay: %w", RetryAfter(time.Minute, cause)), "f"), execution.Retry, time.Minute, "f"},
		"unknown":                 {Unknown(Fingerprint(cause, "f")), execution.Unknown, 0, "f"},
		"the outermost counts":    {RetryAfter(time.Minute, Permanent(cause)), execution.Retry, time.Minute, ""},
		"outermost fingerprint":   {Fingerprint(Fingerprint(cause, "inner"), "outer"), execution.Retry, 0, "outer"},
		"empty names nothing":     {Fingerprint(Fingerprint(cause, "f"), ""), execution.Retry, 0, "f"},
		"in a joined error":       {errors.Join(errors.New("a"), Permanent(Fingerprint(cause, "f"))), execution.Permanent, 0, "f"},
		"split over a joined one": {errors.Join(Fingerprint(cause, "f"), Permanent(cause)), execution.Permanent, 0, "f"},
	} {
		r := executed(t, schemas.EffectsIdempotent, `{}`, func(context.Context, *Task[map[string]int]) error { return c.err })
		if r.Outcome != c.outcome || r.After != c.after || r.Fingerprint != c.fingerprint || !strings.Contains(r.Message, "declined") {
			t.Errorf("%s: %+v, want %v after %v, fingerprint %q", name, r, c.outcome, c.after, c.fingerprint)
		}
	}
	if Fingerprint(nil, "f") != nil || Permanent(nil) != nil {
		t.Error("a marked nil is an error")
	}
}

func TestAFingerprintIsBoundedAndItsOwn(t *testing.T) {
	long := strings.Repeat("é", 300)
	kept, err := dlq.DecodeAttempts(dlq.EncodeAttempts([]dlq.Attempt{{N: 1, Fingerprint: long}}, 0))
	if err != nil {
		t.Fatal(err)
	}
	// A letter that is written again is made from what the claim kept.
	if got := dlq.NamedFingerprint("k", kept[0].Fingerprint); got != dlq.NamedFingerprint("k", long) {
		t.Errorf("a letter written again would have another fingerprint")
	}
	same := map[string]string{
		"another kind": dlq.NamedFingerprint("other", "f"), "another name": dlq.NamedFingerprint("k", "g"),
		"class": dlq.Fingerprint("k", "f", "", ""),
	}
	for what, fp := range same {
		if fp == dlq.NamedFingerprint("k", "f") {
			t.Errorf("%s has the same fingerprint", what)
		}
	}
}

func TestMiddlewareRunsInItsOrder(t *testing.T) {
	var order []string
	note := func(name string) Middleware {
		return func(ctx context.Context, task *Task[[]byte], next func(context.Context) error) error {
			order = append(order, name+" "+task.ID)
			err := next(context.WithValue(ctx, contextKey(name), true))
			order = append(order, name+" after")
			return err
		}
	}
	type seen struct{ a, b bool }
	var in seen
	r := executed(t, schemas.EffectsIdempotent, `{"n":1}`, func(ctx context.Context, task *Task[map[string]int]) error {
		in.a, _ = ctx.Value(contextKey("a")).(bool)
		in.b, _ = ctx.Value(contextKey("b")).(bool)
		order = append(order, fmt.Sprint("handler ", task.Payload["n"]))
		return nil
	}, note("a"), note("b"))
	want := []string{"a main-1-7", "b main-1-7", "handler 1", "b after", "a after"}
	if r.Outcome != execution.Completed || !slices.Equal(order, want) || in != (seen{true, true}) {
		t.Errorf("%+v in %v, want %v; context values %+v", r, order, want, in)
	}
}

type contextKey string

func TestMiddlewareDecides(t *testing.T) {
	fails := func(context.Context, *Task[map[string]int]) error { return errors.New("no luck") }
	never := func(context.Context, *Task[map[string]int]) error {
		t.Error("the handler ran")
		return nil
	}
	breaks := func(context.Context, *Task[map[string]int]) error { panic(errors.New("broken")) }
	pass := func(ctx context.Context, _ *Task[[]byte], next func(context.Context) error) error { return next(ctx) }
	for name, c := range map[string]struct {
		effects schemas.Effects
		payload string
		fn      func(context.Context, *Task[map[string]int]) error
		m       Middleware
		outcome execution.Outcome
		class   string
		stack   bool
	}{
		"passes an error on": {schemas.EffectsIdempotent, `{}`, fails, pass, execution.Retry, "error", false},
		"makes it permanent": {schemas.EffectsIdempotent, `{}`, fails, func(ctx context.Context, _ *Task[[]byte], next func(context.Context) error) error {
			return Permanent(next(ctx))
		}, execution.Permanent, "error", false},
		"skips the handler": {schemas.EffectsIdempotent, `{}`, never, func(context.Context, *Task[[]byte], func(context.Context) error) error {
			return nil
		}, execution.Completed, "", false},
		"decrypts the payload": {schemas.EffectsIdempotent, `encrypted`, func(_ context.Context, task *Task[map[string]int]) error {
			if task.Payload["n"] != 7 {
				return fmt.Errorf("payload %v", task.Payload)
			}
			return nil
		}, func(ctx context.Context, task *Task[[]byte], next func(context.Context) error) error {
			task.Payload, task.Run, task.ID = []byte(`{"n":7}`), 0, ""
			return next(ctx)
		}, execution.Completed, "", false},
		"sees a payload that does not decode": {schemas.EffectsIdempotent, `[]`, never, pass, execution.Permanent, "payload", false},
		"sees a panic as an error": {schemas.EffectsIdempotent, `{}`, breaks, func(ctx context.Context, _ *Task[[]byte], next func(context.Context) error) error {
			err := next(ctx)
			var p *PanicError
			if !errors.As(err, &p) || !strings.Contains(p.Stack, "middleware_test.go") {
				return Permanent(fmt.Errorf("told %w", err))
			}
			return err
		}, execution.Retry, "panic: error", true},
		"panics itself": {schemas.EffectsOnce, `{}`, never, func(context.Context, *Task[[]byte], func(context.Context) error) error {
			panic("mine")
		}, execution.Retry, "panic", true},
		"a panic of effects once is in doubt": {schemas.EffectsOnce, `{}`, breaks, pass, execution.Unknown, "panic: error", true},
		"also if hidden": {schemas.EffectsOnce, `{}`, breaks, func(ctx context.Context, _ *Task[[]byte], next func(context.Context) error) error {
			return fmt.Errorf("hidden: %v", next(ctx)) //nolint:errorlint // that is the case
		}, execution.Unknown, "error", false},
		"and if it panics after the handler": {schemas.EffectsOnce, `{}`, fails, func(ctx context.Context, _ *Task[[]byte], next func(context.Context) error) error {
			panic(next(ctx))
		}, execution.Unknown, "panic: error", true},
	} {
		r := executed(t, c.effects, c.payload, c.fn, c.m)
		if r.Outcome != c.outcome || r.Class != c.class || (r.Stack != "") != c.stack {
			t.Errorf("%s: %+v, want %v, class %q, stack %v", name, r, c.outcome, c.class, c.stack)
		}
	}
}

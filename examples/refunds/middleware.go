package main

// What runs around every handler.

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/perdure/perdure/worker"
)

// timed is where a tracing library would begin and end its span: the context
// that it hands inwards is the handler's.
func timed(ctx context.Context, t *worker.Task[[]byte], next func(context.Context) error) error {
	began := time.Now()
	err := next(ctx)
	slog.DebugContext(ctx, "handled", "kind", t.Kind, "task_id", t.ID, "attempt", t.Attempt,
		"traceparent", t.Headers["traceparent"], "took", time.Since(began), "err", err)
	return err
}

// panicsArePermanent gives a bug no second try. Without it a panic is retried
// like any other error.
func panicsArePermanent(ctx context.Context, _ *worker.Task[[]byte], next func(context.Context) error) error {
	err := next(ctx)
	var p *worker.PanicError
	if errors.As(err, &p) {
		return worker.Permanent(err)
	}
	return err
}

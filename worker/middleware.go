package worker

// Middleware: what runs around every Go handler of a worker.

import (
	"context"
	"errors"
)

// Middleware runs around a handler. It calls next to go on inwards, at most
// once, and returns what the worker shall judge: next's error, or another. One
// that does not call next has decided itself what becomes of the task: nil
// completes it.
//
// t is the task with its payload as it came. A middleware may put another
// payload in its place (decrypted, unpacked) before it calls next; it must not
// write into the old one, which other attempts still read. What it changes in
// other fields, the handler does not see. ctx is the attempt's; a middleware
// passes on that one or a child of it.
//
// A handler that panicked is a *PanicError from next. A middleware's own panic
// is judged like a handler's.
type Middleware func(ctx context.Context, t *Task[[]byte], next func(context.Context) error) error

// Use puts middleware around every Go handler of w, those registered before it
// included; call it before Run. The first one is the outermost, over several
// calls too: Use(a, b) runs a, then b, then decodes the payload, then calls the
// handler. Kinds with an executor of their own have none: their endpoint is
// another process.
func (w *Worker) Use(middleware ...Middleware) {
	if w.started.Load() {
		w.mistakes = append(w.mistakes, errors.New("middleware: Use was called after Run"))
		return
	}
	w.around.list = append(w.around.list, middleware...)
}

// around is the middleware of a worker, outermost first; its handlers share it.
type around struct{ list []Middleware }

// call runs the middleware from i on, then inner.
func (a *around) call(ctx context.Context, t *Task[[]byte], i int, inner func(context.Context) error) error {
	if i == len(a.list) {
		return inner(ctx)
	}
	return a.list[i](ctx, t, func(ctx context.Context) error { return a.call(ctx, t, i+1, inner) })
}

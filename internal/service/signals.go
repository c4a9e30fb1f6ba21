package service

// Signals: the first asks to stop, the second does not ask.

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Signals returns a context that ends at the first SIGTERM or SIGINT. From then
// on signals have their default effect again, so that a second one ends the
// process at once. Call stop when there is nothing left to interrupt.
func Signals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel)
	return ctx, cancel
}

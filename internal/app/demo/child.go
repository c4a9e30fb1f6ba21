package demo

// A worker process: what the hidden subcommand runs.

import (
	"context"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/worker"
)

// Worker runs the workflow's handlers until ctx ends, or until parent does: it
// is our end of a pipe that closes when the demo is gone, killed or not.
func Worker(ctx context.Context, env app.Env, bankURL string, parent io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, parent) // ends with the pipe, whatever the reason
		cancel()
	}()
	return app.HandlerWorker(ctx, env, func(ctx context.Context, db *pgxpool.Pool) (func(*worker.Worker), func() error, error) {
		bank := disputes.NewBankClient(bankURL)
		flow, err := disputes.NewWorkflow(ctx, db, bank)
		if err != nil {
			return nil, nil, err
		}
		return flow.Register, func() error { bank.Close(); return nil }, nil
	})
}

package demo

// A worker process: what the hidden subcommand runs, and what a user's own
// worker looks like.

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/worker"
)

// connections of one worker process: pgx's default, four, would make most of
// its 64 handlers wait for one.
const connections = 16

// Worker runs the workflow's handlers until ctx ends, or until parent does: it
// is our end of a pipe that closes when the demo is gone, killed or not.
func Worker(ctx context.Context, logs io.Writer, bankURL string, parent io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, parent) // ends with the pipe, whatever the reason
		cancel()
	}()
	cfg, err := config.Load()
	if err != nil {
		return exit.Usage(err)
	}
	pool, err := pgxpool.ParseConfig(cfg.PostgresURL)
	if err != nil {
		return exit.Usage(fmt.Errorf("PERDURE_POSTGRES_URL: %w", err))
	}
	pool.MaxConns = connections
	db, err := pgxpool.NewWithConfig(ctx, pool)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer db.Close()
	bank := disputes.NewBankClient(bankURL)
	defer bank.Close()
	flow, err := disputes.NewWorkflow(ctx, db, bank)
	if err != nil {
		return err
	}
	return worker.Serve(ctx, logs, func(w *worker.Worker) error {
		flow.Register(w)
		return nil
	})
}

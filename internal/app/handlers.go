package app

// A worker with Go handlers that lives in this binary: the demo's.

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/worker"
)

// HandlerWorker runs a worker whose handlers use the database, until ctx ends.
// register is called once, when the servers answer; what it returns to close is
// closed after the worker has stopped.
func HandlerWorker(ctx context.Context, env Env, register func(context.Context, *pgxpool.Pool) (handlers func(*worker.Worker), closeFn func() error, err error)) error {
	p := newProcess("worker", env)
	if err := p.prepare(ctx, need{postgres: true, redis: true, kafka: true}, false); err != nil {
		return p.abandon(ctx, err)
	}
	handlers, closeFn, err := register(ctx, p.db)
	if err != nil {
		return p.abandon(ctx, err)
	}
	p.group.Close("handlers", closeFn)
	if err := p.addWorker(nil, handlers); err != nil {
		return p.abandon(ctx, err)
	}
	return p.run(ctx)
}

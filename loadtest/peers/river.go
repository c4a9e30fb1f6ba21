package main

// River, with the settings of its own benchmark (`river bench`).

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/perdure/perdure/loadtest/run"
)

// jobArgs marshal to the same bytes as Perdure's payload.
type jobArgs struct {
	N string `json:"n"`
	D string `json:"d"`
}

// Kind implements river.JobArgs.
func (jobArgs) Kind() string { return "noop" }

type jobWorker struct {
	river.WorkerDefaults[jobArgs]
	seen *seen
}

// Work implements river.Worker.
func (w *jobWorker) Work(_ context.Context, job *river.Job[jobArgs]) error {
	return w.seen.ran(job.Args.N)
}

// runRiver works in a database of its own. With backlog the workers start when
// everything is inserted.
func runRiver(ctx context.Context, w work, srv servers, backlog bool) (res *result, err error) {
	url, drop, err := srv.database(ctx, "perdure_peer_river")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	if err := riverMigrate(ctx, driver); err != nil {
		return nil, err
	}
	if w.held {
		release, err := hold(ctx, url)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	s := newSeen(w)
	workers := river.NewWorkers()
	river.AddWorker(workers, &jobWorker{seen: s})
	concurrency := w.Concurrency
	if concurrency == 0 {
		concurrency = 2000
	}
	retention := time.Duration(0) // River's own
	if w.over > 0 {
		retention = history
	}
	client, err := river.NewClient(driver, &river.Config{
		CompletedJobRetentionPeriod: retention,
		FetchCooldown:               2 * time.Millisecond,
		FetchPollInterval:           20 * time.Millisecond,
		Queues:                      map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: concurrency}},
		Workers:                     workers,
		Logger:                      silent,
	})
	if err != nil {
		return nil, fmt.Errorf("river: client: %w", err)
	}
	started := false
	start := func() error {
		started = true
		return client.Start(ctx)
	}
	defer func() {
		if started {
			err = errors.Join(err, client.Stop(context.WithoutCancel(ctx)))
		}
	}()
	p := peer{batch: w.Batch, senders: w.Producers, insert: riverInsert(client, w), settled: riverSettled(pool)}
	if backlog {
		p.work = start
	} else if err := start(); err != nil {
		return nil, fmt.Errorf("river: start: %w", err)
	}
	if w.over > 0 {
		return w.measureOver(ctx, p, url, s.passed)
	}
	return w.measure(ctx, p, s, srv)
}

func riverInsert(client *river.Client[pgx.Tx], w work) func(context.Context, int, int) error {
	payloads := run.NewPayloads(w.Payload, w.Entropy)
	return func(ctx context.Context, first, n int) error {
		params := make([]river.InsertManyParams, n)
		for i := range params {
			params[i].Args = jobArgs{N: fmt.Sprintf("%010d", first+i), D: string(payloads.Filler(first + i))}
		}
		_, err := client.InsertManyFast(ctx, params)
		return err
	}
}

// riverSettled asks for jobs that are not done; the fetching index answers it.
func riverSettled(pool *pgxpool.Pool) func(context.Context) (bool, error) {
	return func(ctx context.Context) (done bool, err error) {
		err = pool.QueryRow(ctx, `select not exists (select from river_job where state in ('available', 'running', 'retryable', 'pending', 'scheduled'))`).Scan(&done)
		return done, err
	}
}

var silent = slog.New(slog.DiscardHandler)

package main

// Inserting alone: client.EnqueueMany beside River's InsertManyFast, and what it
// costs all processes. Nobody works anything off.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/loadtest/run/usage"
)

type insertBench struct {
	bench
	work
}

func insertCommand(ctx context.Context, args []string) error {
	var b insertBench
	fs := flag.NewFlagSet("insert", flag.ContinueOnError)
	b.bench.flags(fs)
	b.work.flags(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return &usageError{err}
	}
	return b.command(ctx, "insert", b.run)
}

// inserters open a database of their own for one run and return the insert of
// tasks first to first+n-1, in one transaction.
var inserters = []struct {
	name string
	open func(context.Context, work, servers) (insert func(ctx context.Context, first, n int) error, drop func() error, err error)
}{
	{ours, openOurs}, {"river", openRiver}, {"COPY into a bare table", openBare},
}

// openBare is what nothing that keeps a task in a row can beat: the payloads
// alone, by COPY into a table without an index.
func openBare(ctx context.Context, w work, srv servers) (func(context.Context, int, int) error, func() error, error) {
	url, drop, err := srv.migrated(ctx, "perdure_insert_bare", `create table bare (payload bytea not null)`)
	if err != nil {
		return nil, nil, err
	}
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	payloads := run.NewPayloads(w.Payload, w.Entropy)
	return func(ctx context.Context, first, n int) error {
		_, err := pool.CopyFrom(ctx, pgx.Identifier{"bare"}, []string{"payload"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			return []any{payloads.Append(nil, first+i)}, nil
		}))
		return err
	}, func() error { pool.Close(); return drop() }, nil
}

func openOurs(ctx context.Context, w work, srv servers) (func(context.Context, int, int) error, func() error, error) {
	url, drop, err := srv.migrated(ctx, "perdure_insert", "")
	if err != nil {
		return nil, nil, err
	}
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	closeAll := func() error { pool.Close(); return drop() }
	c, err := client.New(ctx, pool)
	if err != nil {
		return nil, nil, errors.Join(err, closeAll())
	}
	payloads := run.NewPayloads(w.Payload, w.Entropy)
	return enqueueMany(c, payloads), closeAll, nil
}

func openRiver(ctx context.Context, w work, srv servers) (func(context.Context, int, int) error, func() error, error) {
	url, drop, err := srv.database(ctx, "perdure_insert_river")
	if err != nil {
		return nil, nil, err
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	closeAll := func() error { pool.Close(); return drop() }
	driver := riverpgxv5.New(pool)
	if err := riverMigrate(ctx, driver); err != nil {
		return nil, nil, errors.Join(err, closeAll())
	}
	c, err := river.NewClient(driver, &river.Config{Logger: silent}) // inserts only
	if err != nil {
		return nil, nil, errors.Join(err, closeAll())
	}
	return riverInsert(c, w), closeAll, nil
}

// riverMigrate makes River's tables.
func riverMigrate(ctx context.Context, driver *riverpgxv5.Driver) error {
	migrator, err := rivermigrate.New[pgx.Tx](driver, &rivermigrate.Config{Logger: silent})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("river: migrate: %w", err)
	}
	return nil
}

func (b *insertBench) run(ctx context.Context, srv servers) (string, error) {
	results := map[string][]*result{}
	for r := range 1 + b.runs {
		for i := range inserters {
			in := inserters[(i+r)%len(inserters)] // none always comes after the same other
			res, err := b.once(ctx, srv, in.open)
			if err != nil {
				return "", fmt.Errorf("%s: %w", in.name, err)
			}
			fmt.Fprintf(os.Stderr, "%-8s %6.0f tasks/s  %5.1f µs a task\n", in.name, res.rate(), res.cpu())
			if r > 0 {
				results[in.name] = append(results[in.name], res)
			}
		}
	}
	return b.table(results), nil
}

func (b *insertBench) once(ctx context.Context, srv servers, open func(context.Context, work, servers) (func(context.Context, int, int) error, func() error, error)) (res *result, err error) {
	insert, drop, err := open(ctx, b.work, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	meter, err := usage.New(srv.targets()...)
	if err != nil {
		return nil, err
	}
	p := peer{batch: b.Batch, senders: b.Producers, insert: insert}
	if err := p.send(ctx, 0, b.Warmup); err != nil {
		return nil, err
	}
	before, err := meter.Read()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := p.send(ctx, b.Warmup, b.Warmup+b.Tasks); err != nil {
		return nil, err
	}
	took := time.Since(start)
	after, err := meter.Read()
	if err != nil {
		return nil, err
	}
	res = &result{Tasks: b.Tasks, Seconds: took.Seconds(), CPU: map[string]float64{}}
	for name, v := range after.Since(before) {
		res.CPU[name] = micros(v) / float64(b.Tasks)
	}
	return res, nil
}

func (b *insertBench) table(results map[string][]*result) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d tasks of %d bytes a run (%s), %d a transaction, %d producers; %d runs of each, in turn.\n\n", b.Tasks, b.Payload, b.Entropy, b.Batch, b.Producers, b.runs)
	s.WriteString("| inserting | tasks/s | tasks a CPU-second, all processes | µs CPU a task, all | producer | postgres |\n|---|---|---|---|---|---|\n")
	perSecond := func(r *result) float64 { return 1e6 / r.cpu() }
	for _, in := range inserters {
		runs := results[in.name]
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s |\n", in.name, spreadOf(each(runs, (*result).rate)).text("%.0f"), spreadOf(each(runs, perSecond)).text("%.0f"),
			spreadOf(each(runs, (*result).cpu)).text("%.1f"), spreadOf(each(runs, func(r *result) float64 { return r.CPU[usage.Own] })).text("%.1f"),
			spreadOf(each(runs, func(r *result) float64 { return r.CPU["postgres"] })).text("%.1f"))
	}
	var rate, cpu []float64
	for i, theirs := range results["river"] {
		mine := results[ours][i]
		rate, cpu = append(rate, mine.rate()/theirs.rate()), append(cpu, theirs.cpu()/mine.cpu())
	}
	fmt.Fprintf(&s, "| perdure, times river | %s | %s | | | |\n", spreadOf(rate).text("%.1f"), spreadOf(cpu).text("%.1f"))
	return s.String()
}

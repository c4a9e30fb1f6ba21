package main

// `perdure relay` alone, as a process of its own: a backlog, then nothing to do,
// then a steady rate.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/loadtest/run/usage"
)

type relayBench struct {
	bench
	perdure string
	backlog int
	payload int
	idle    time.Duration
	rate    int
	steady  time.Duration
}

// relayed is what one run says.
type relayed struct {
	rows                                float64 // a second, of the backlog
	relay, postgres, kafka              float64 // µs CPU a row, of the backlog
	rss                                 float64 // MiB, the peak of the relay's process
	idle, idlePostgres                  float64 // per cent of a core
	p50, p99, max                       float64 // ms, commit → polled
	steady, steadyPostgres, steadyRelay float64 // per cent of a core, of all, Postgres, the relay
}

func relayCommand(ctx context.Context, args []string) error {
	var b relayBench
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	b.flags(fs)
	fs.StringVar(&b.perdure, "perdure", "", "the perdure binary; default: build it from this repository")
	fs.IntVar(&b.backlog, "backlog", 500_000, "rows that are there before the relay starts")
	fs.IntVar(&b.payload, "payload", 1024, "bytes of a task's payload")
	fs.DurationVar(&b.idle, "idle", 10*time.Second, "how long there is nothing to relay")
	fs.IntVar(&b.rate, "rate", 1000, "tasks a second, each in a transaction of its own")
	fs.DurationVar(&b.steady, "steady", 10*time.Second, "how long at that rate")
	if err := parse(fs, args); err != nil {
		return err
	}
	if b.backlog < 1 || b.payload < 64 || b.rate < 1 || b.idle < 0 || b.steady <= 0 || int(float64(b.rate)*b.steady.Seconds()) < 1 {
		return &usageError{errors.New("backlog, rate: want at least 1, and one task at that rate; payload: 64")}
	}
	return b.command(ctx, "relay", b.run)
}

func (b *relayBench) run(ctx context.Context, srv servers) (string, error) {
	if b.perdure == "" {
		var c comparison
		clean, err := c.build(ctx)
		if err != nil {
			return "", err
		}
		defer clean()
		b.perdure = c.perdure
	}
	var got []*relayed
	for r := range b.runs {
		res, err := b.once(ctx, srv)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "run %d: %.0f rows/s, peak %.0f MiB; idle %.2f %%; p50 %.1f ms, p99 %.1f ms\n", r+1, res.rows, res.rss, res.idle, res.p50, res.p99)
		got = append(got, res)
	}
	return b.table(got), nil
}

func (b *relayBench) once(ctx context.Context, srv servers) (res *relayed, err error) {
	url, drop, err := srv.migrated(ctx, "perdure_relay", "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	pool, err := pg.Pool(ctx, url+withParam(url, "pool_max_conns=8"))
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	payloads := run.NewPayloads(b.payload, run.Random)
	if err := fill(ctx, pool, b.backlog, payloads); err != nil {
		return nil, err
	}
	meter, err := usage.New(srv.targets()...)
	if err != nil {
		return nil, err
	}
	child, err := startRelay(ctx, b.perdure, url, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, child.stop(srv)) }()
	res = &relayed{}
	if err := b.drain(ctx, pool, child, meter, res); err != nil {
		return nil, err
	}
	if err := b.rest(ctx, child, meter, res); err != nil {
		return nil, err
	}
	if err := b.atRate(ctx, pool, child, meter, srv, payloads, res); err != nil {
		return nil, err
	}
	res.rss, err = child.peak()
	return res, err
}

func withParam(url, param string) string {
	if strings.Contains(url, "?") {
		return "&" + param
	}
	return "?" + param
}

// drain waits until the backlog is relayed. The first batch is not counted: it
// has the process's start in it.
func (b *relayBench) drain(ctx context.Context, pool *pgxpool.Pool, child *relayChild, meter *usage.Meter, res *relayed) error {
	first, err := awaitRelayed(ctx, pool, child, 1)
	if err != nil {
		return err
	}
	before, err := meter.Read()
	if err != nil {
		return err
	}
	own, err := child.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	all, err := awaitRelayed(ctx, pool, child, b.backlog)
	if err != nil {
		return err
	}
	took := time.Since(start)
	ownAfter, err := child.cpu()
	if err != nil {
		return err
	}
	after, err := meter.Read()
	if err != nil {
		return err
	}
	if all != b.backlog {
		return fmt.Errorf("%d rows were relayed, of %d", all, b.backlog)
	}
	n := float64(max(1, all-first))
	used := after.Since(before)
	res.rows = n / took.Seconds()
	res.relay, res.postgres, res.kafka = micros(ownAfter-own)/n, micros(used["postgres"])/n, micros(used["kafka"])/n
	return nil
}

// rest leaves the relay alone for a while.
func (b *relayBench) rest(ctx context.Context, child *relayChild, meter *usage.Meter, res *relayed) error {
	if b.idle == 0 {
		return nil
	}
	if err := pause(ctx, 3*time.Second); err != nil { // for what the backlog leaves behind: autovacuum, garbage
		return err
	}
	before, err := meter.Read()
	if err != nil {
		return err
	}
	own, err := child.cpu()
	if err != nil {
		return err
	}
	if err := pause(ctx, b.idle); err != nil {
		return err
	}
	ownAfter, err := child.cpu()
	if err != nil {
		return err
	}
	after, err := meter.Read()
	if err != nil {
		return err
	}
	res.idle = 100 * (ownAfter - own).Seconds() / b.idle.Seconds()
	res.idlePostgres = 100 * after.Since(before)["postgres"].Seconds() / b.idle.Seconds()
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *relayBench) table(got []*relayed) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d rows of %d bytes in four partitions, then %s of nothing, then %d tasks a second for %s, each committed alone; %d runs, each a new process on a new database.\n\n| relay | |\n|---|---|\n",
		b.backlog, b.payload, b.idle, b.rate, b.steady, b.runs)
	line := func(what, format string, of func(*relayed) float64) {
		var values []float64
		for _, r := range got {
			values = append(values, of(r))
		}
		fmt.Fprintf(&s, "| %s | %s |\n", what, spreadOf(values).text(format))
	}
	line("backlog: rows/s", "%.0f", func(r *relayed) float64 { return r.rows })
	line("µs CPU a row: relay", "%.1f", func(r *relayed) float64 { return r.relay })
	line("postgres", "%.1f", func(r *relayed) float64 { return r.postgres })
	line("kafka", "%.1f", func(r *relayed) float64 { return r.kafka })
	line("peak of the process, MiB", "%.0f", func(r *relayed) float64 { return r.rss })
	line("idle: relay, % of a core", "%.2f", func(r *relayed) float64 { return r.idle })
	line("idle: all of Postgres, % of a core", "%.2f", func(r *relayed) float64 { return r.idlePostgres })
	line("commit → record polled, ms: p50", "%.1f", func(r *relayed) float64 { return r.p50 })
	line("p99", "%.1f", func(r *relayed) float64 { return r.p99 })
	line("max", "%.1f", func(r *relayed) float64 { return r.max })
	line("at that rate: relay, % of a core", "%.1f", func(r *relayed) float64 { return r.steadyRelay })
	line("all of Postgres, % of a core", "%.1f", func(r *relayed) float64 { return r.steadyPostgres })
	line("all processes, with producer and consumer", "%.1f", func(r *relayed) float64 { return r.steady })
	return s.String()
}

package main

// HTTP: posts of one task over many connections, by the dispatcher and by a
// handler with a transaction a post; and NDJSON.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run/usage"
	"github.com/perdure/perdure/schemas"
)

type httpBench struct {
	bench
	connections int
	lines       int
	duration    time.Duration
	payload     int
}

func httpCommand(ctx context.Context, args []string) error {
	var b httpBench
	fs := flag.NewFlagSet("http", flag.ContinueOnError)
	b.flags(fs)
	fs.IntVar(&b.connections, "connections", 256, "that post at once")
	fs.IntVar(&b.lines, "lines", 100, "in an NDJSON post")
	fs.DurationVar(&b.duration, "duration", 4*time.Second, "of a run")
	fs.IntVar(&b.payload, "payload", 1024, "bytes of a task's payload")
	if err := parse(fs, args); err != nil {
		return err
	}
	if b.connections < 1 || b.lines < 1 || b.payload < 64 || b.duration < 10*time.Millisecond {
		return &usageError{errors.New("connections, lines: want at least 1; payload: 64; duration: 10ms")}
	}
	return b.command(ctx, "http", b.run)
}

// streams are the connections of NDJSON: a dispatcher serves 128 such posts at
// once and refuses more.
const streams = 16

// contender is one way to take tasks over HTTP.
type contender struct {
	name    string
	lines   int  // of a post, over few connections; 0: a post of one task
	control bool // a transaction a post, not the dispatcher
	pool    int  // connections to Postgres; 0: what the dispatcher has by default
}

func (b *httpBench) contenders() []contender {
	return []contender{
		{"dispatcher", 0, false, 0},
		{"a transaction a post, the same pool", 0, true, 0},
		{"a transaction a post, 32 connections", 0, true, 32},
		{fmt.Sprintf("dispatcher, NDJSON of %d", b.lines), b.lines, false, 0},
	}
}

// run gives each contender a database of its own, for all runs.
func (b *httpBench) run(ctx context.Context, srv servers) (table string, err error) {
	results := map[string][]*result{}
	for r := range 1 + b.runs {
		all := b.contenders()
		for i := range all {
			c := all[(i+r)%len(all)]
			res, err := b.once(ctx, srv, c)
			if err != nil {
				return "", fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Fprintf(os.Stderr, "%-40s %6.0f tasks/s  %5.1f µs a task\n", c.name, res.rate(), res.cpu())
			if r > 0 {
				results[c.name] = append(results[c.name], res)
			}
		}
	}
	return b.table(results), nil
}

func (b *httpBench) once(ctx context.Context, srv servers, c contender) (res *result, err error) {
	url, drop, err := srv.migrated(ctx, "perdure_http", "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	if c.pool > 0 {
		url += fmt.Sprintf("&pool_max_conns=%d", c.pool)
		if !strings.Contains(url, "?") {
			url = strings.Replace(url, "&", "?", 1)
		}
	}
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	var handler http.Handler = control{pool}
	if !c.control {
		h, stop, err := serveDispatcher(ctx, pool)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		handler = h
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go server.Serve(listener) //nolint:errcheck // Close is what ends it
	defer server.Close()      //nolint:errcheck // nothing is under way
	return b.load(ctx, srv, listener.Addr().String(), c, pool)
}

// load posts for the run's duration, after a short while that does not count, and
// compares what was answered with what is in the outbox.
func (b *httpBench) load(ctx context.Context, srv servers, addr string, c contender, pool *pgxpool.Pool) (*result, error) {
	meter, err := usage.New(srv.targets()[:1]...) // Kafka and Redis have no part in it
	if err != nil {
		return nil, err
	}
	connections := b.connections
	if c.lines > 0 {
		connections = min(connections, streams)
	}
	p, err := dial(addr, connections, c.lines, b.payload)
	if err != nil {
		return nil, err
	}
	defer p.close()
	warm, err := p.post(ctx, b.duration/4)
	if err != nil {
		return nil, err
	}
	before, err := meter.Read()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	n, err := p.post(ctx, b.duration)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	after, err := meter.Read()
	if err != nil {
		return nil, err
	}
	var rows int
	if err := pool.QueryRow(ctx, `select count(*) from perdure.outbox_tasks`).Scan(&rows); err != nil {
		return nil, err
	}
	if rows != warm+n {
		return nil, fmt.Errorf("%d tasks were accepted, and %d rows are in the outbox", warm+n, rows)
	}
	res := &result{Tasks: n, Seconds: took.Seconds(), CPU: map[string]float64{}}
	for name, v := range after.Since(before) {
		res.CPU[name] = micros(v) / float64(n)
	}
	return res, nil
}

// serveDispatcher is the dispatcher's API on pool, as the binary serves it.
func serveDispatcher(ctx context.Context, pool *pgxpool.Pool) (http.Handler, func() error, error) {
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte("version: 1\nqueues:\n  q: {partitions: 4, replication: 1}\nkinds:\n  k: {queue: q}\n"), fstest.MapFS{})
	if err != nil {
		return nil, nil, err
	}
	d, err := dispatcher.New(dispatcher.Config{}, dispatcher.Deps{DB: pool, Catalog: cat, Log: silent})
	if err != nil {
		return nil, nil, err
	}
	a := api.New(http.NewServeMux(), "bench", nil, silent)
	d.Routes(a)
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	stop := func() error { cancel(); return <-ran }
	for d.Ready(ctx) != nil {
		select {
		case err := <-ran:
			cancel()
			return nil, nil, fmt.Errorf("the dispatcher ended: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return a, stop, nil
}

func (b *httpBench) table(results map[string][]*result) string {
	var s strings.Builder
	all := b.contenders()
	fmt.Fprintf(&s, "%d connections (NDJSON: %d), payloads of %d bytes, %d runs of %s of each, in turn, each on a new database.\n\n", b.connections, min(b.connections, streams), b.payload, b.runs, b.duration)
	s.WriteString("| over HTTP | tasks/s | the dispatcher's posts, times this | µs CPU a task, all | times the dispatcher's posts | server and load | postgres |\n|---|---|---|---|---|---|---|\n")
	ours := results[all[0].name]
	for _, c := range all {
		runs := results[c.name]
		var rate, cpu []float64
		for i, r := range runs {
			rate, cpu = append(rate, ours[i].rate()/r.rate()), append(cpu, r.cpu()/ours[i].cpu())
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s |\n", c.name, spreadOf(each(runs, (*result).rate)).text("%.0f"), spreadOf(rate).text("%.2f"),
			spreadOf(each(runs, (*result).cpu)).text("%.0f"), spreadOf(cpu).text("%.2f"),
			spreadOf(each(runs, func(r *result) float64 { return r.CPU[usage.Own] })).text("%.0f"),
			spreadOf(each(runs, func(r *result) float64 { return r.CPU["postgres"] })).text("%.0f"))
	}
	return s.String()
}

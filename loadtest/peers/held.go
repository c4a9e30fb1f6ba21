package main

// A transaction that someone holds open while tasks pass: what it costs each
// system.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

type heldBench struct {
	bench
	work
	perdure string
	systems []string
}

func heldCommand(ctx context.Context, args []string) error {
	var b heldBench
	fs := flag.NewFlagSet("held", flag.ContinueOnError)
	b.bench.flags(fs)
	b.work.flags(fs)
	fs.StringVar(&b.perdure, "perdure", "", "the perdure binary; default: build it from this repository")
	fs.DurationVar(&b.over, "over", 0, "spread the tasks over this time, all sides at once; 0 = as fast as each can, in turn")
	fs.DurationVar(&b.settle, "settle", history+90*time.Second, "with -over: look this long after the last task at what is left")
	systems := fs.String("systems", strings.Join(heldOrder, ","), "which")
	if err := parse(fs, args); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return &usageError{err}
	}
	b.systems = strings.Split(*systems, ",")
	for _, s := range b.systems {
		if !slices.Contains(heldOrder, s) {
			return &usageError{fmt.Errorf("systems: there is no %q; want some of: %s", s, strings.Join(heldOrder, ","))}
		}
	}
	if b.over < 0 {
		return &usageError{errors.New("over: want a time")}
	}
	if b.over > 0 {
		return b.command(ctx, "held-over", b.run)
	}
	return b.command(ctx, "held", b.run)
}

// hold opens a transaction that keeps its snapshot, and idles. A nil release is
// never returned without an error.
func hold(ctx context.Context, url string) (release func() error, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	release = func() error { return conn.Close(context.WithoutCancel(ctx)) }
	if _, err := conn.Exec(ctx, `begin isolation level repeatable read`); err != nil {
		return nil, errors.Join(err, release())
	}
	if _, err := conn.Exec(ctx, `select count(*) from pg_class`); err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// passers move every task from its insert to its end, once.
func (b *heldBench) passers() map[string]func(context.Context, work, servers) (*result, error) {
	return map[string]func(context.Context, work, servers) (*result, error){
		ours:     func(ctx context.Context, w work, s servers) (*result, error) { return passOurs(ctx, w, s, b.perdure) },
		"river":  func(ctx context.Context, w work, s servers) (*result, error) { return runRiver(ctx, w, s, false) },
		deleting: passDeleting,
	}
}

const deleting = "outbox with DELETE SKIP LOCKED"

var heldOrder = []string{ours, "river", deleting}

func (b *heldBench) run(ctx context.Context, srv servers) (string, error) {
	if b.perdure == "" {
		var c comparison
		clean, err := c.build(ctx)
		if err != nil {
			return "", err
		}
		defer clean()
		b.perdure = c.perdure
	}
	if b.over > 0 {
		return b.overAll(ctx)
	}
	free, held := map[string][]*result{}, map[string][]*result{}
	passers := b.passers()
	for r := range 1 + b.runs {
		for _, name := range b.systems {
			for i := range 2 {
				w, into := b.work, free
				if w.held = (i+r)%2 == 1; w.held {
					into = held
				}
				res, err := passers[name](ctx, w, srv)
				if err != nil {
					return "", fmt.Errorf("%s, held %v: %w", name, w.held, err)
				}
				fmt.Fprintf(os.Stderr, "%-30s held %-5v %6.0f tasks/s  %5.1f µs a task\n", name, w.held, res.rate(), res.cpu())
				if r > 0 {
					into[name] = append(into[name], res)
				}
			}
		}
	}
	return b.table(free, held), nil
}

func (b *heldBench) table(free, held map[string][]*result) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d tasks of %d bytes a run, %d a transaction, %d producers; %d runs of each, in turn, each on a new database.\n\n", b.Tasks, b.Payload, b.Batch, b.Producers, b.runs)
	s.WriteString("| a snapshot held open | tasks/s without | with | with by without | µs CPU a task without | with | with by without |\n|---|---|---|---|---|---|---|\n")
	for _, name := range b.systems {
		var rate, cpu []float64
		for i, h := range held[name] {
			f := free[name][i]
			rate, cpu = append(rate, h.rate()/f.rate()), append(cpu, h.cpu()/f.cpu())
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s |\n", name,
			spreadOf(each(free[name], (*result).rate)).text("%.0f"), spreadOf(each(held[name], (*result).rate)).text("%.0f"), spreadOf(rate).text("%.2f"),
			spreadOf(each(free[name], (*result).cpu)).text("%.0f"), spreadOf(each(held[name], (*result).cpu)).text("%.0f"), spreadOf(cpu).text("%.2f"))
	}
	return s.String()
}

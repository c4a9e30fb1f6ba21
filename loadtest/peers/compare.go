package main

// Runs in turn, each a process of its own.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/perdure/perdure/loadtest/run"
)

// ours is Perdure's name in the tables, and in -systems.
const ours = "perdure"

// ourConcurrency is what River's workers have, too. Claims go to Redis in batches of
// what starts together.
const ourConcurrency = "2000"

type comparison struct {
	work
	pairs    int
	discard  int
	systems  []string
	perdure  string // the binary
	doc      string
	servers  servers
	results  map[string][]*result
	settings []string
}

func compare(ctx context.Context, args []string) (err error) {
	c := comparison{results: map[string][]*result{}}
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	c.flags(fs)
	fs.IntVar(&c.pairs, "pairs", 5, "runs of each system that count")
	fs.IntVar(&c.discard, "discard", 1, "runs of each before those, for the servers to warm up")
	fs.StringVar(&c.perdure, "perdure", "", "the perdure binary; default: build it from this repository")
	fs.StringVar(&c.doc, "doc", "", "put the tables into this markdown file, between its compare markers")
	systems := fs.String("systems", ours+",river,asynq", "in the order of a round: "+ours+", river, river-backlog (inserts all, then starts to work), asynq")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return &usageError{err}
	}
	c.systems = strings.Split(*systems, ",")
	if err := c.checkAll(); err != nil {
		return &usageError{err}
	}
	if c.servers, err = serversFromEnv(); err != nil {
		return &usageError{err}
	}
	var restore func() error
	if c.settings, restore, err = c.servers.durable(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	if c.perdure == "" {
		clean, err := c.build(ctx)
		if err != nil {
			return err
		}
		defer clean()
	}
	for round := range c.discard + c.pairs {
		if err := c.round(ctx, round); err != nil {
			return err
		}
	}
	table := c.table()
	fmt.Print(table)
	if c.doc != "" {
		return insert(c.doc, "compare", table)
	}
	return nil
}

func (c *comparison) checkAll() error {
	if c.pairs < 1 || c.discard < 0 {
		return errors.New("pairs: want at least 1; discard: 0 or more")
	}
	if c.doc != "" { // now, not after ten minutes
		if _, _, err := between(c.doc, "compare"); err != nil {
			return err
		}
	}
	for _, s := range c.systems {
		if _, ok := peers[s]; !ok && s != ours {
			return fmt.Errorf("systems: there is no %q", s)
		}
	}
	return c.check()
}

// build makes the binary from the repository that we stand in.
func (c *comparison) build(ctx context.Context) (clean func(), err error) {
	dir, err := os.MkdirTemp("", "perdure-peers-")
	if err != nil {
		return nil, err
	}
	clean = func() { _ = os.RemoveAll(dir) }
	c.perdure = filepath.Join(dir, "perdure")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", c.perdure, "./cmd/perdure")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		clean()
		return nil, fmt.Errorf("build perdure (run this in loadtest/peers, or name a binary with -perdure): %w\n%s", err, out)
	}
	return clean, nil
}

// round runs each system once; every other round backwards, so that none always
// finds the servers as the same other left them.
func (c *comparison) round(ctx context.Context, n int) error {
	order := slices.Clone(c.systems)
	if n%2 == 1 {
		slices.Reverse(order)
	}
	for _, name := range order {
		res, err := c.once(ctx, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		kept := "counts"
		if n < c.discard {
			kept = "warm-up, does not count"
		} else {
			c.results[name] = append(c.results[name], res)
		}
		fmt.Fprintf(os.Stderr, "%-14s %6.0f tasks/s  %6.1f µs a task  (%s)\n", name, res.rate(), res.cpu(), kept)
		select {
		case <-time.After(time.Second): // for the servers to come to rest
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *comparison) once(ctx context.Context, name string) (*result, error) {
	if name == ours {
		return c.oneOfOurs(ctx)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := output(exec.CommandContext(ctx, self, append([]string{"one", name}, c.args()...)...))
	if err != nil {
		return nil, err
	}
	var res result
	return &res, json.Unmarshal(out, &res)
}

func (c *comparison) oneOfOurs(ctx context.Context) (*result, error) {
	args := []string{"loadtest", "run", "-o", "json"}
	for _, a := range c.args() {
		if strings.HasPrefix(a, "-") {
			a = "-" + a // cobra wants two
		}
		args = append(args, a)
	}
	if c.Concurrency == 0 {
		args = append(args, "--concurrency", ourConcurrency)
	}
	out, err := output(exec.CommandContext(ctx, c.perdure, args...))
	if err != nil {
		return nil, err
	}
	var rep run.Report
	if err := json.Unmarshal(out, &rep); err != nil {
		return nil, err
	}
	if len(rep.NotCounted) > 0 {
		return nil, fmt.Errorf("not all CPU time was counted: %v", rep.NotCounted)
	}
	res := &result{Tasks: rep.Options.Tasks, Seconds: rep.Seconds, EnqueueSeconds: rep.EnqueueSeconds, CPU: map[string]float64{}}
	for _, p := range rep.CPU {
		res.CPU[p.Part] = p.PerTask
	}
	return res, nil
}

// output is stdout; an error has the end of stderr.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	// A stop is asked for, so that databases and topics are taken back.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.Output()
	if err != nil {
		b := stderr.Bytes()
		return nil, fmt.Errorf("%w\n%s", err, b[max(0, len(b)-2000):])
	}
	return out, nil
}

func machine() string {
	return fmt.Sprintf("%d CPUs, %s, %s/%s", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

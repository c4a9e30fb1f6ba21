package main

// What the commands besides compare have in common: how often, against which
// servers, and where the table goes.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// bench is a command's own measurement.
type bench struct {
	runs int
	doc  string
}

func (b *bench) flags(fs *flag.FlagSet) {
	fs.IntVar(&b.runs, "runs", 5, "that count; one more before them is for the servers to warm up")
	fs.StringVar(&b.doc, "doc", "", "put the table into this markdown file, between the command's markers")
}

// parse reads a command's flags; a wrong one is a usageError, -h is errHelp.
func parse(fs *flag.FlagSet, args []string) error {
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("%s: unexpected %q", fs.Name(), fs.Arg(0))
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return &usageError{err}
	}
	return err
}

// command runs the measurement on the servers that the environment names and
// prints its table, with the machine and its load before and after.
func (b *bench) command(ctx context.Context, name string, measure func(context.Context, servers) (string, error)) (err error) {
	if b.runs < 1 {
		return &usageError{errors.New("runs: want at least 1")}
	}
	if b.doc != "" { // now, not after ten minutes
		if _, _, err := between(b.doc, name); err != nil {
			return &usageError{err}
		}
	}
	srv, err := serversFromEnv()
	if err != nil {
		return &usageError{err}
	}
	settings, restore, err := srv.durable(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	before := loadAverage()
	table, err := measure(ctx, srv)
	if err != nil {
		return err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s, %s; load average %s before, %s after. Median (lowest–highest).\n\n", time.Now().UTC().Format(time.DateOnly), machine(), before, loadAverage())
	for _, s := range settings {
		fmt.Fprintf(&out, "- %s\n", s)
	}
	out.WriteString("\n" + table)
	fmt.Print(out.String())
	if b.doc == "" {
		return nil
	}
	return insert(b.doc, name, out.String())
}

// loadAverage is that of the last minute, "?" where the system does not tell.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

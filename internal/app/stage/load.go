package stage

// A whole load test: the stage, the run, the files.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/loadtest/run"
)

// Files that a load test writes; "" = not.
type Files struct {
	Result     string // JSON
	HTML       string // a report with charts
	CPUProfile string // pprof, of this process, from the first task to the last
}

// LoadOptions of a load test.
type LoadOptions struct {
	Config  config.Config
	Version string
	Load    run.Options
	Files   Files
}

// Load builds a stage, loads it, takes it down, and writes the files.
func Load(ctx context.Context, o LoadOptions) (rep *run.Report, err error) {
	loader, err := run.New(o.Load)
	if err != nil {
		return nil, exit.Usage(err)
	}
	s, err := New(ctx, Options{Config: o.Config, Version: o.Version, Load: loader.Options(), Begin: loader.Tally.Begin})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	err = profiled(o.Files.CPUProfile, func() error {
		rep, err = loader.Run(ctx, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	rep.Version = o.Version
	return rep, errors.Join(
		write(o.Files.Result, func(w io.Writer) error {
			enc := json.NewEncoder(w)
			enc.SetIndent("", "  ")
			return enc.Encode(rep)
		}),
		write(o.Files.HTML, rep.HTML))
}

// profiled runs f under a CPU profile, if path says where to.
func profiled(path string, f func() error) (err error) {
	if path == "" {
		return f()
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the CPU profile: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := pprof.StartCPUProfile(out); err != nil {
		return fmt.Errorf("write the CPU profile: %w", err)
	}
	defer pprof.StopCPUProfile()
	return f()
}

// write fills the file at path; "" = none.
func write(path string, fill func(io.Writer) error) (err error) {
	if path == "" {
		return nil
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := fill(out); err != nil {
		return fmt.Errorf("write the report %s: %w", path, err)
	}
	return nil
}

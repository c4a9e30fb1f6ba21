package stage

// Built in order, closed in reverse.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/app/share"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/schemas"
)

// source is the name of the stage's outbox.
const source = "load"

// Options of a stage.
type Options struct {
	Config  config.Config // servers that are named here are used, the others embedded
	Version string
	Load    run.Options // kinds, partitions, concurrency

	// Begin is handed every payload before anything else is done with it.
	Begin func(payload []byte) error
}

// Stage is a running Perdure. It is a run.System.
type Stage struct {
	opts    Options
	cfg     config.Config
	dir     string
	logs    io.Writer
	catalog *schemas.Catalog
	hook    string // URL of the HTTP kind

	node    app.Servers
	opened  *kgo.Client
	admin   *kadm.Client
	kafka   []kgo.Opt
	client  *client.Client
	claims  *claims.Store
	highest atomic.Int64 // seq that was accepted
	failed  chan error

	closers []func() error
}

var _ run.System = (*Stage)(nil)

// New builds a stage. If it fails, nothing is left of it.
func New(ctx context.Context, opts Options) (_ *Stage, err error) {
	s := &Stage{opts: opts, cfg: opts.Config, failed: make(chan error, 4)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, step := range []func(context.Context) error{
		s.folder, s.startHook, s.writeCatalog, s.share, s.startNode, s.clients, s.startWorker,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Stage) later(f func() error) { s.closers = append(s.closers, f) }

// Close takes everything down, last first.
func (s *Stage) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Failed implements run.System.
func (s *Stage) Failed() <-chan error { return s.failed }

// folder makes the data directory, with a log in it.
func (s *Stage) folder(context.Context) error {
	dir, err := os.MkdirTemp("", "perdure-loadtest-")
	if err != nil {
		return fmt.Errorf("make a folder for the load test: %w", err)
	}
	s.dir = dir
	s.later(func() error { return os.RemoveAll(dir) })
	// An embedded Postgres runs as another user when we are root.
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // see above
		return fmt.Errorf("open the load test's folder: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "perdure.log"))
	if err != nil {
		return fmt.Errorf("make a log: %w", err)
	}
	s.logs = log
	s.later(log.Close)
	c := &s.cfg
	c.DataDir, c.Source = dir, source
	c.HTTPAddr, c.APIURL, c.APITokensFile, c.APIToken, c.Instance = "", "", "", "", ""
	c.LogFormat, c.KafkaTopics = "json", "create"
	return nil
}

// share keeps us out of everybody's way on servers that are not embedded.
func (s *Stage) share(ctx context.Context) error {
	catalog := func() (*schemas.Catalog, error) { return s.catalog, nil }
	return share.Take(ctx, &s.cfg, "load", catalog, s.later)
}

// background runs f until the stage closes; if it ends before, the run fails.
func (s *Stage) background(ctx context.Context, name string, f func(context.Context) error) {
	// It ends when the stage closes it, in its turn, not when ctx does.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		err := f(ctx)
		if ctx.Err() == nil {
			s.failed <- fmt.Errorf("%s ended: %w%s", name, errors.Join(err, errBySelf), s.tail())
		}
		ended <- err
	}()
	s.later(func() error {
		stop()
		if err := <-ended; err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		return nil
	})
}

var errBySelf = errors.New("by itself")

// tail is the end of the log, for an error message.
func (s *Stage) tail() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "perdure.log"))
	if err != nil || len(b) == 0 {
		return ""
	}
	return "\n" + string(b[max(0, len(b)-2000):])
}

// startNode runs every role but the worker.
func (s *Stage) startNode(ctx context.Context) error {
	env := app.Env{Config: s.cfg, Version: s.opts.Version, Out: s.logs, ErrOut: s.logs}
	node, err := app.NewNode(ctx, env, app.NodeOptions{})
	if err != nil {
		return fmt.Errorf("start the roles: %w", err)
	}
	s.cfg, s.node = node.Config(), node.Servers
	s.background(ctx, "roles", node.Run)
	return nil
}

// clients opens what a producer and an observer need.
func (s *Stage) clients(ctx context.Context) (err error) {
	if s.kafka, err = kafka.ClientOpts(s.cfg, "loadtest", source, silent); err != nil {
		return err
	}
	if s.opened, err = kgo.NewClient(s.kafka...); err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	s.later(func() error { s.opened.Close(); return nil })
	s.admin = kadm.NewClient(s.opened)
	db, err := pg.Pool(ctx, s.cfg.PostgresURL)
	if err != nil {
		return err
	}
	s.later(func() error { db.Close(); return nil })
	return s.producer(ctx, db)
}

// catalogWait bounds how long the dispatcher may take to write the catalog.
const catalogWait = 30 * time.Second

// producer waits until the dispatcher has written the catalog: a producer made
// before would know no kind.
func (s *Stage) producer(ctx context.Context, db client.DB) error {
	ctx, cancel := context.WithTimeout(ctx, catalogWait)
	defer cancel()
	probe := client.Task{Kind: run.KindName(run.Noop), Payload: client.Raw("{}")}
	for {
		c, err := client.New(ctx, db)
		if err == nil {
			err = c.Validate(ctx, probe)
		}
		if err == nil {
			s.client = c
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case failed := <-s.failed:
			return failed
		case <-ctx.Done():
			return fmt.Errorf("make a producer: %w%s", err, s.tail())
		}
	}
}

// silent is for clients whose lines nobody would read.
var silent = slog.New(slog.DiscardHandler)

package demo

// Where the story plays: servers, roles, bank, worker processes; all of it the
// demo's own, and gone afterwards.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/app/share"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
)

// world is everything that one demo runs on. Closers run in reverse.
type world struct {
	opts    Options
	say     *teller
	cfg     config.Config
	dir     string
	node    chan error // the roles ended
	bank    *disputes.Bank
	workers *workers
	api     *apiclient.Client
	db      *pgxpool.Pool
	admin   *kadm.Client

	closers []func() error
}

// newWorld builds the stage. If it fails, nothing is left of it.
func newWorld(ctx context.Context, opts Options, say *teller) (_ *world, err error) {
	w := &world{opts: opts, say: say, cfg: opts.Config, node: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := w.folder(); err != nil {
		return nil, err
	}
	if err := share.Take(ctx, &w.cfg, "demo", disputes.Catalog, w.later); err != nil {
		return nil, err
	}
	if err := w.startNode(ctx); err != nil {
		return nil, err
	}
	if err := w.clients(ctx); err != nil {
		return nil, err
	}
	if err := disputes.CreateTables(ctx, w.db); err != nil {
		return nil, err
	}
	bankURL, err := w.startBank()
	if err != nil {
		return nil, err
	}
	command := append(append([]string(nil), opts.Child...), bankURL)
	w.workers = newWorkers(command, w.childEnv(), w.dir)
	w.later(w.workers.stop)
	return w, nil
}

func (w *world) later(f func() error) { w.closers = append(w.closers, f) }

// close takes everything down, last first.
func (w *world) close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	w.closers = nil
	return errors.Join(errs...)
}

// folder makes the data directory, with the catalog in it.
func (w *world) folder() error {
	dir, err := os.MkdirTemp("", "perdure-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	w.dir = dir
	w.later(func() error { return os.RemoveAll(dir) })
	// An embedded Postgres runs as another user when we are root.
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("open the demo's folder: %w", err)
	}
	catalog, err := disputes.WriteCatalog(filepath.Join(dir, "catalog"))
	if err != nil {
		return err
	}
	c := &w.cfg
	c.DataDir, c.Catalog, c.Source = dir, catalog, "demo"
	c.HTTPAddr, c.APIURL, c.APITokensFile, c.APIToken, c.Instance = "", "", "", "", ""
	c.LogFormat, c.KafkaTopics = "json", "create"
	return nil
}

// startNode runs every role but the worker in this process.
func (w *world) startNode(ctx context.Context) error {
	log, err := os.Create(filepath.Join(w.dir, "perdure.log"))
	if err != nil {
		return fmt.Errorf("make a log: %w", err)
	}
	w.later(log.Close)
	w.say.linef("starting what is not configured: Postgres, Redis, Kafka, then every role")
	env := app.Env{Config: w.cfg, Version: w.opts.Version, Out: log, ErrOut: log}
	node, err := app.NewNode(ctx, env, app.NodeOptions{})
	if err != nil {
		return err
	}
	w.cfg = node.Config()
	// The node stops when the demo closes it, after the workers, not when ctx
	// ends: a worker that stops still wants to say its last words.
	stopped, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() {
		err := node.Run(stopped)
		if stopped.Err() == nil {
			w.node <- fmt.Errorf("the roles ended: %w%s", err, tail(log.Name()))
		}
		ended <- err
	}()
	w.later(func() error {
		stop()
		return <-ended
	})
	for _, s := range []struct {
		name string
		at   app.Place
	}{{"Postgres", node.Servers.Postgres}, {"Redis", node.Servers.Redis}, {"Kafka", node.Servers.Kafka}} {
		kind := "real"
		if s.at.Embedded {
			kind = "embedded: " + s.at.Detail
		}
		w.say.linef("%-8s %s (%s)", s.name, s.at.Addr, kind)
	}
	return nil
}

// nodeEnded is why the roles stopped by themselves, if they did.
func (w *world) nodeEnded(ctx context.Context) error {
	select {
	case err := <-w.node:
		return err
	case err := <-w.workers.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// clients opens what the demo itself asks with.
func (w *world) clients(ctx context.Context) (err error) {
	if w.api, err = apiclient.New(w.cfg); err != nil {
		return err
	}
	w.later(func() error { w.api.Close(); return nil })
	if w.db, err = pg.Pool(ctx, w.cfg.PostgresURL); err != nil {
		return err
	}
	w.later(func() error { w.db.Close(); return nil })
	opts, err := kafka.ClientOpts(w.cfg, "demo", "demo", silent)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	w.later(func() error { cl.Close(); return nil })
	w.admin = kadm.NewClient(cl)
	return nil
}

// startBank serves the bank's API on a free loopback port.
func (w *world) startBank() (url string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("start the bank: %w", err)
	}
	w.bank = &disputes.Bank{Latency: 3 * time.Millisecond}
	srv := &http.Server{Handler: w.bank, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	w.later(func() error {
		err := srv.Close()
		if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	})
	return "http://" + ln.Addr().String(), nil
}

// childEnv is our environment without its own PERDURE_ variables, and with what
// the node's perdure.env says.
func (w *world) childEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PERDURE_") {
			env = append(env, kv)
		}
	}
	for _, l := range w.cfg.ForOthers() {
		env = append(env, l.Name+"="+l.Value)
	}
	return append(env, "PERDURE_DATA_DIR="+w.dir, "PERDURE_LOG_FORMAT=json", "PERDURE_RELEASE=demo")
}

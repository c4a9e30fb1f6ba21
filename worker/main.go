package worker

// Main: a whole process around a Worker, with the environment, the signals and
// the health endpoints of `perdure worker`.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/schemas"
)

// Main runs a worker with the handlers that setup registers, until SIGTERM or
// SIGINT, and ends the process: with 0 after a stop that was asked for, 1 if
// the worker cannot start or go on, 2 if its environment is wrong, 4 if it is to
// be started again (its handlers ignore their contexts, its topic was deleted). It reads the
// PERDURE_* environment, or finds a running `perdure up`, and serves /healthz,
// /readyz and /metrics. A second signal ends it at once.
//
// setup runs before anything is connected. Its error ends the process.
func Main(setup func(*Worker) error) {
	service.QuietRedis()
	ctx, stop := service.Signals(context.Background())
	defer stop()
	err := Serve(ctx, os.Stderr, setup)
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err) //nolint:errcheck // there is nowhere else to say it
	}
	os.Exit(exit.Code(err))
}

// Serve is Main without signals and without ending the process: it runs until
// ctx ends and writes the log to logs.
func Serve(ctx context.Context, logs io.Writer, setup func(*Worker) error) error {
	cfg, err := config.Load()
	if err != nil {
		return exit.Usage(err)
	}
	log := service.Logger(cfg, logs).With("role", "worker")
	group := service.NewGroup(log)
	if err := assemble(ctx, cfg, log, group, setup); err != nil {
		err = group.Abandon(err)
		if ctx.Err() != nil {
			return nil // stopped while it started
		}
		return err
	}
	return group.Run(ctx)
}

// assemble opens what a worker needs and adds it to the group, in the order of
// dependence.
func assemble(ctx context.Context, cfg config.Config, log *slog.Logger, group *service.Group, setup func(*Worker) error) error {
	cat, err := schemas.LoadCatalog(cfg.Catalog)
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	for _, w := range cat.Warnings {
		log.Warn("the catalog asks for what is not done", "line", w.Line, "path", w.Path, "detail", w.Detail)
	}
	instance, err := cfg.TakeInstance("worker")
	if err != nil {
		return err
	}
	group.Close("instance slot", instance.Release)
	opts, err := kafka.ClientOpts(cfg, "worker", instance.Name, log)
	if err != nil {
		return exit.Usage(err)
	}
	rdb, err := service.Redis(cfg)
	if err != nil {
		return exit.Usage(err)
	}
	group.Close("redis", rdb.Close)
	names := kafka.Names{Prefix: cfg.KafkaTopicPrefix}
	ledger, err := claims.NewKafkaLedger(names.Control(), opts...)
	if err != nil {
		return err
	}
	where := claims.Config{Prefix: cfg.RedisKeyPrefix, Cluster: cfg.RedisCluster, Ledger: ledger}
	store, err := claims.New(rdb, where)
	if err != nil {
		return err
	}
	health := service.NewHealth()
	pingRedis := func(ctx context.Context) error { return service.ExplainRedis(cfg, claims.Ping(ctx, rdb, where)) }
	health.Check("redis", pingRedis)
	w, err := New(Config{
		Instance: instance.Name, NameHeld: instance.Held(), Release: cfg.Release, Concurrency: int(cfg.Concurrency),
	}, Deps{
		Catalog: cat, Names: names, Kafka: opts, Claims: store, Log: log, Registry: health.Registry(),
	})
	if err != nil {
		return err
	}
	if err := setup(w); err != nil {
		return fmt.Errorf("set up handlers: %w", err)
	}

	health.Check("worker", w.Ready)
	mux := http.NewServeMux()
	health.Register(mux)
	listener, err := service.Listen(cfg.HTTPAddr)
	if err != nil {
		return err
	}
	log.Info("health and metrics", "url", "http://"+listener.Addr().String())
	group.Add("http", func(ctx context.Context) error { return service.Serve(ctx, listener, mux, log) })

	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return errors.Join(fmt.Errorf("kafka: %w", err), listener.Close())
	}
	group.Close("kafka", func() error { cl.Close(); return nil })
	pingKafka := func(ctx context.Context) error { return kafka.Ping(ctx, cfg, cl) }
	health.Check("kafka", pingKafka)
	err = service.Await(ctx, log, service.StartWait, nil,
		service.Server{Name: "redis", Addr: strings.Join(cfg.RedisAddrs, ","), Probe: pingRedis},
		service.Server{Name: "kafka", Addr: strings.Join(cfg.KafkaBrokers, ","), Probe: pingKafka})
	if err == nil {
		settings := kafka.Settings{Names: names, History: cfg.History, Requests: cl}
		_, err = kafka.Ensure(ctx, kadm.NewClient(cl), cat, settings, cfg.KafkaTopics == "check")
	}
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	group.Add("worker", w.Run)
	return nil
}

package stage

// The worker: what a user's own worker is, in this process.

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/worker"
)

// startWorker runs one worker with the Go handlers and the HTTP kind.
func (s *Stage) startWorker(ctx context.Context) error {
	rdb, err := service.Redis(s.cfg)
	if err != nil {
		return err
	}
	s.later(rdb.Close)
	names := kafka.Names{Prefix: s.cfg.KafkaTopicPrefix}
	opts, err := kafka.ClientOpts(s.cfg, "worker", source, silent)
	if err != nil {
		return err
	}
	ledger, err := claims.NewKafkaLedger(names.Control(), opts...)
	if err != nil {
		return err
	}
	s.claims, err = claims.New(rdb, claims.Config{Prefix: s.cfg.RedisKeyPrefix, Cluster: s.cfg.RedisCluster, Ledger: ledger})
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	w, err := worker.New(worker.Config{Instance: "loadtest", Concurrency: s.opts.Load.Concurrency}, worker.Deps{
		Catalog: s.catalog, Names: names, Kafka: opts, Claims: s.claims, Log: service.Logger(s.cfg, s.logs).With("role", "worker"),
	})
	if err != nil {
		return err
	}
	worker.Handle(w, run.KindName(run.Noop), func(_ context.Context, t *worker.Task[[]byte]) error {
		return permanent(s.opts.Begin(t.Payload))
	})
	worker.Handle(w, run.KindName(run.Sleep), func(ctx context.Context, t *worker.Task[[]byte]) error {
		if err := s.opts.Begin(t.Payload); err != nil {
			return permanent(err)
		}
		timer := time.NewTimer(s.opts.Load.Sleep)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	s.background(ctx, "worker", w.Run)
	return nil
}

// permanent keeps a payload that is not ours from being tried again.
func permanent(err error) error {
	if err != nil {
		return worker.Permanent(err)
	}
	return nil
}

package app

// `perdure dispatcher`: accepts tasks, and serves all of /v1.

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/audit"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/replayer"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/reports"
)

// Dispatcher runs a dispatcher until ctx ends. It waits for Postgres alone: with
// Kafka or Redis away tasks are accepted, and only questions about them fail.
func Dispatcher(ctx context.Context, env Env) error {
	p := newProcess("dispatcher", env)
	if err := p.prepare(ctx, need{postgres: true}, true); err != nil {
		return p.abandon(ctx, err)
	}
	if err := p.openRedis(); err != nil {
		return p.abandon(ctx, err)
	}
	if err := p.openKafka(); err != nil {
		return p.abandon(ctx, err)
	}
	if err := p.addDispatcher(ctx); err != nil {
		return p.abandon(ctx, err)
	}
	return p.run(ctx)
}

// addDispatcher adds the dispatcher and registers every role's routes.
func (p *process) addDispatcher(ctx context.Context) error {
	if err := pg.CheckVersion(ctx, p.db); err != nil {
		return err
	}
	limit, err := p.payloadLimit(ctx)
	if err != nil {
		return err
	}
	d, err := dispatcher.New(dispatcher.Config{
		MaxPayload:  limit,
		TopicPrefix: p.cfg.KafkaTopicPrefix,
		OutboxLimit: p.cfg.OutboxLimit,
	}, dispatcher.Deps{
		DB:      p.db,
		Catalog: p.catalog,
		Kafka:   p.client,
		Log:     p.log,
		Metrics: p.health.Registry(),
	})
	if err != nil {
		return err
	}
	// It only reads claims, so it needs no ledger of incarnations.
	store, err := claims.New(p.rdb, claims.Config{Prefix: p.cfg.RedisKeyPrefix, Cluster: p.cfg.RedisCluster})
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	groups := dispatcher.KafkaOffsets{Admin: p.admin, Shared: kafka.ShareGroups(p.catalog, p.names)}
	history, err := dispatcher.NewHistory(dispatcher.HistoryDeps{
		DB:      p.db,
		Claims:  store,
		Offsets: groups,
		Names:   p.names,
		Source:  p.cfg.Source,
	})
	if err != nil {
		return err
	}
	desk, err := reports.New(reports.Deps{
		Claims: store, Producer: p.client, Kafka: p.kafka, Names: p.names, Source: p.cfg.Source, Log: p.log,
		Ended: func(ctx context.Context, id string) error { return dispatcher.ReleaseUnique(ctx, p.db, id) },
	})
	if err != nil {
		return err
	}
	d.Routes(p.api)
	desk.Routes(p.api)
	history.Routes(p.api)
	if err := p.addWhy(history, groups, store); err != nil {
		return err
	}
	dlq.NewLetters(p.db).WithJQ(p.jq).Routes(p.api)
	replayer.NewJobs(p.db, p.catalog, p.jq).Routes(p.api)
	audit.New(p.db).Routes(p.api)
	policies, err := replayer.NewPolicies(replayer.PolicyConfig{}, replayer.PolicyDeps{DB: p.db, Catalog: p.catalog, Workers: liveWorkers(store)})
	if err != nil {
		return err
	}
	policies.Routes(p.api)
	p.health.Check("dispatcher", func(ctx context.Context) error { return safePG(d.Ready(ctx)) })
	p.group.Add("dispatcher", d.Run)
	return nil
}

// payloadLimit is 0, the default, where we make the topics; where they are made
// by others it is what fits into them, so Kafka must be asked.
func (p *process) payloadLimit(ctx context.Context) (int, error) {
	if p.cfg.KafkaTopics != "check" {
		return 0, nil
	}
	if err := p.awaitKafka(ctx); err != nil {
		return 0, err
	}
	return kafka.PayloadLimit(ctx, p.admin, p.catalog, p.settings)
}

// ApplyCatalog writes cat into the database, and takes out what it does not
// have: `perdure catalog apply`.
func ApplyCatalog(ctx context.Context, cfg config.Config, cat *schemas.Catalog) ([]dispatcher.Change, error) {
	url, err := DirectURL(cfg)
	if err != nil {
		return nil, err
	}
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if err := pg.CheckVersion(ctx, pool); err != nil {
		return nil, err
	}
	opt := dispatcher.ApplyOptions{Prune: true}
	if cfg.KafkaTopics == "check" {
		if opt.MaxPayload, err = askPayloadLimit(ctx, cfg, cat); err != nil {
			return nil, err
		}
	}
	return dispatcher.ApplyCatalog(ctx, pool, cat, opt)
}

func askPayloadLimit(ctx context.Context, cfg config.Config, cat *schemas.Catalog) (limit int, err error) {
	err = withAdmin(cfg, func(a admin) error {
		limit, err = kafka.PayloadLimit(ctx, a.Client, cat, a.settings)
		return err
	})
	return limit, err
}

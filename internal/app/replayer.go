package app

// `perdure replayer`: runs replays, and indexes dead letters and events.

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/replayer"
)

// Replayer runs a replayer with its index until ctx ends.
func Replayer(ctx context.Context, env Env) error {
	p := newProcess("replayer", env)
	prepare := func(ctx context.Context) error {
		return p.prepare(ctx, need{postgres: true, redis: true, kafka: true}, false)
	}
	return p.start(ctx, prepare, p.ensureTopics, p.addReplayer)
}

// addReplayer adds the index and the runner of replays.
func (p *process) addReplayer(ctx context.Context) error {
	if err := pg.CheckVersion(ctx, p.db); err != nil {
		return err
	}
	index, err := dlq.NewIndex(dlq.Config{
		Source:   p.cfg.Source,
		Instance: p.instance,
		History:  p.cfg.History,
	}, dlq.Deps{
		DB:       p.db,
		Kafka:    p.kafka,
		Names:    p.names,
		Catalog:  p.catalog,
		Log:      p.log,
		Registry: p.health.Registry(),
	})
	if err != nil {
		return err
	}
	// It only reads claims, so it needs no ledger of incarnations.
	store, err := claims.New(p.rdb, claims.Config{Prefix: p.cfg.RedisKeyPrefix, Cluster: p.cfg.RedisCluster})
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	jobs, err := replayer.New(replayer.Config{Instance: p.instance}, replayer.Deps{
		DB:       p.db,
		Claims:   store,
		Catalog:  p.catalog,
		JQ:       p.jq,
		Log:      p.log,
		Registry: p.health.Registry(),
	})
	if err != nil {
		return err
	}
	policies, err := replayer.NewPolicies(replayer.PolicyConfig{}, replayer.PolicyDeps{
		DB:       p.db,
		Catalog:  p.catalog,
		JQ:       p.jq,
		Log:      p.log,
		Registry: p.health.Registry(),
		Workers:  liveWorkers(store),
	})
	if err != nil {
		return err
	}
	keys, err := replayer.NewKeys(replayer.KeysConfig{}, replayer.KeysDeps{
		DB:       p.db,
		Claims:   store,
		Log:      p.log,
		Registry: p.health.Registry(),
	})
	if err != nil {
		return err
	}
	lifts, err := replayer.NewLifts(replayer.LiftsConfig{}, replayer.LiftsDeps{
		DB:       p.db,
		Log:      p.log,
		Registry: p.health.Registry(),
	})
	if err != nil {
		return err
	}
	p.group.Add("dead-letter index", index.Run)
	p.group.Add("lifts", lifts.Run)
	p.group.Add("unique keys", keys.Run)
	p.group.Add("policies", policies.Run)
	p.group.Add("replayer", jobs.Run)
	return nil
}

package app

// `perdure worker`: runs the kinds that have an HTTP executor.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// Worker runs a worker until ctx ends.
func Worker(ctx context.Context, env Env) error {
	p := newProcess("worker", env)
	if err := p.prepare(ctx, need{redis: true, kafka: true}, false); err != nil {
		return p.abandon(ctx, err)
	}
	queues, others := executorQueues(p.catalog)
	if len(queues) == 0 {
		return p.abandon(ctx, fmt.Errorf("no queue of %s has only kinds with an executor: nothing for this worker to run\n%s", p.cfg.Catalog, others))
	}
	if others != "" {
		p.log.Warn("queues left to workers of your own", "detail", others)
	}
	if err := p.ensureTopics(ctx); err != nil {
		return p.abandon(ctx, err)
	}
	if err := p.addWorker(queues); err != nil {
		return p.abandon(ctx, err)
	}
	return p.run(ctx)
}

// executorQueues are the queues that a worker without handlers can serve alone;
// others says, a line each, which it cannot and why.
func executorQueues(cat *schemas.Catalog) (queues []string, others string) {
	missing := map[string][]string{}
	for _, name := range cat.KindNames() {
		k := cat.Kinds[name]
		list := missing[k.Queue]
		if k.HTTP == nil {
			list = append(list, name)
		}
		missing[k.Queue] = list
	}
	var lines []string
	for _, q := range slices.Sorted(maps.Keys(missing)) {
		if len(missing[q]) == 0 {
			queues = append(queues, q)
			continue
		}
		lines = append(lines, fmt.Sprintf("queue %s: %s needs a handler in a worker of your own (worker.Handle)", q, strings.Join(missing[q], ", ")))
	}
	return queues, strings.Join(lines, "\n")
}

// addWorker adds a worker for queues.
func (p *process) addWorker(queues []string) error {
	ledger, err := claims.NewKafkaLedger(p.names.Control(), p.kafka...)
	if err != nil {
		return err
	}
	store, err := claims.New(p.rdb, claims.Config{Prefix: p.cfg.RedisKeyPrefix, Cluster: p.cfg.RedisCluster, Ledger: ledger})
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		Instance:    p.instance,
		NameHeld:    p.nameHeld,
		Queues:      queues,
		Release:     p.cfg.Release,
		Concurrency: int(p.cfg.Concurrency),
	}, worker.Deps{
		Catalog:  p.catalog,
		Names:    p.names,
		Kafka:    p.kafka,
		Claims:   store,
		Log:      p.log,
		Registry: p.health.Registry(),
	})
	if err != nil {
		return err
	}
	p.health.Check("worker", w.Ready)
	p.group.Add("worker", w.Run)
	return nil
}

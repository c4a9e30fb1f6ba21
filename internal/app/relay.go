package app

// `perdure relay`: the outbox into Kafka, and retries back to their queues.

import (
	"context"
	"fmt"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/relay"
)

// Relay runs a relay until ctx ends.
func Relay(ctx context.Context, env Env) error {
	p := newProcess("relay", env)
	prepare := func(ctx context.Context) error {
		return p.prepare(ctx, need{postgres: true, kafka: true}, false)
	}
	return p.start(ctx, prepare, p.ensureTopics, p.addRelay)
}

// addRelay adds the relay. Its database is the direct one: it compares
// snapshots and reads the log's position, which no pooler may come between.
func (p *process) addRelay(ctx context.Context) error {
	if err := pg.CheckVersion(ctx, p.direct); err != nil {
		return err
	}
	r, err := relay.New(relay.Config{
		Source:  p.cfg.Source,
		Owner:   p.instance,
		Release: p.cfg.Release,
		History: p.cfg.History,
	}, relay.Deps{
		DB:       p.direct,
		Kafka:    p.kafka,
		Names:    p.names,
		Catalog:  p.catalog,
		Log:      p.log,
		Registry: p.health.Registry(),
	})
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	p.health.Check("relay", func(context.Context) error { return r.Status().Ready() })
	p.group.Add("relay", r.Run)
	return nil
}

package app

// What an Explainer asks of the relay, which the dispatcher must not import.

import (
	"context"
	"errors"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/relay"
)

// addWhy registers GET /v1/tasks/{id}/why.
func (p *process) addWhy(h *dispatcher.History, groups dispatcher.KafkaOffsets, store *claims.Store) error {
	e, err := dispatcher.NewExplainer(h, dispatcher.WhyDeps{
		Catalog: p.catalog,
		Groups:  groups,
		Life: func(ctx context.Context, owner string) (bool, error) {
			life, err := store.LifeOf(ctx, owner)
			return life == claims.Beats, err
		},
		Outbox: p.outboxFacts,
		Halted: func(ctx context.Context) (string, error) {
			err := relay.Examine(ctx, relay.Config{Source: p.cfg.Source}, relay.Deps{DB: p.direct, Kafka: p.kafka, Names: p.names})
			var halt *relay.HaltError
			if errors.As(err, &halt) {
				return halt.Error(), nil
			}
			return "", err
		},
	})
	if err != nil {
		return err
	}
	e.Routes(p.api)
	return nil
}

func (p *process) outboxFacts(ctx context.Context) (dispatcher.OutboxFacts, error) {
	o, err := relay.ReadOutbox(ctx, p.db, p.cfg.Source)
	if err != nil {
		return dispatcher.OutboxFacts{}, err
	}
	f := dispatcher.OutboxFacts{
		Owner: o.Owner, Alive: o.Alive, Until: o.Until, Fence: o.Fence, MovedAt: o.MovedAt,
		Backlog: o.Backlog, Oldest: time.Duration(o.Oldest * float64(time.Second)), Parked: o.Parked,
	}
	for i := range o.Open {
		t := &o.Open[i]
		f.Open = append(f.Open, dispatcher.OpenTransaction{Name: t.Name(), Since: t.Since, Writes: t.Writes})
	}
	return f, nil
}

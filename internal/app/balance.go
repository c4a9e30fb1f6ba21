package app

// Questions that commands ask the servers themselves, without an API.

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/balance"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/relay"
	"github.com/perdure/perdure/schemas"
)

// Balance looks where every task is that was accepted since (zero: all that
// are still known). It asks Postgres, Redis and Kafka; none may be away.
func Balance(ctx context.Context, cfg config.Config, cat *schemas.Catalog, since time.Time) (r balance.Report, err error) {
	url, err := DirectURL(cfg)
	if err != nil {
		return r, err
	}
	db, err := pg.Pool(ctx, url)
	if err != nil {
		return r, err
	}
	defer db.Close()
	rdb, err := service.Redis(cfg)
	if err != nil {
		return r, err
	}
	defer rdb.Close() //nolint:errcheck // only read from
	store, err := claims.New(rdb, claims.Config{Prefix: cfg.RedisKeyPrefix, Cluster: cfg.RedisCluster})
	if err != nil {
		return r, fmt.Errorf("claims: %w", err)
	}
	err = withAdmin(cfg, func(a admin) error {
		r, err = balance.Compute(ctx, balance.Deps{
			DB:     db,
			Claims: store,
			Admin:  a.Client,
			Kafka:  a.opts,
			Names:  a.settings.Names,
			Queues: cat.QueueNames(),
			Shared: kafka.ShareGroups(cat, a.settings.Names),
			Source: cfg.Source,
		}, since)
		return err
	})
	return r, err
}

// Outbox reads the state of the outbox and its relay from the database; it
// works also where no relay runs.
func Outbox(ctx context.Context, cfg config.Config) (relay.Outbox, error) {
	url, err := DirectURL(cfg)
	if err != nil {
		return relay.Outbox{}, err
	}
	db, err := pg.Pool(ctx, url)
	if err != nil {
		return relay.Outbox{}, err
	}
	defer db.Close()
	if err := pg.CheckVersion(ctx, db); err != nil {
		return relay.Outbox{}, err
	}
	return relay.ReadOutbox(ctx, db, cfg.Source)
}

// ExamineRelay is what a relay that is started with cfg now would halt with: a
// *relay.HaltError, nil, or what kept from looking.
func ExamineRelay(ctx context.Context, cfg config.Config) error {
	opts, err := kafka.ClientOpts(cfg, "outbox", "status", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return direct(ctx, cfg, func(db *pgxpool.Pool) error {
		return relay.Examine(ctx, relay.Config{Source: cfg.Source},
			relay.Deps{DB: db, Kafka: opts, Names: kafka.Names{Prefix: cfg.KafkaTopicPrefix}})
	})
}

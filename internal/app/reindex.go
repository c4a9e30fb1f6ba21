package app

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Reindex is dlq.Index.Reindex with the servers of cfg; progress is told of the
// offsets that were read.
func Reindex(ctx context.Context, cfg config.Config, cat *schemas.Catalog, progress func(read, total int64)) (done dlq.Reindexed, err error) {
	log := slog.New(slog.DiscardHandler)
	opts, err := kafka.ClientOpts(cfg, "dlq", "reindex", log)
	if err != nil {
		return done, err
	}
	err = direct(ctx, cfg, func(db *pgxpool.Pool) error {
		x, err := dlq.NewIndex(dlq.Config{Source: cfg.Source, History: cfg.History, Who: person(), Progress: progress},
			dlq.Deps{DB: db, Kafka: opts, Names: kafka.Names{Prefix: cfg.KafkaTopicPrefix}, Catalog: cat, Log: log})
		if err != nil {
			return err
		}
		done, err = x.Reindex(ctx)
		return err
	})
	return done, err
}

// Recount is dlq.Recount with the database of cfg.
func Recount(ctx context.Context, cfg config.Config) error {
	return direct(ctx, cfg, func(db *pgxpool.Pool) error { return dlq.Recount(ctx, db, person()) })
}

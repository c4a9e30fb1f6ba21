package app

// Another system's dead-letter topic: read with nothing but Kafka, or sent back.

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/dlq/imports"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
)

// ForeignCluster connects to the Kafka of cfg for reading; its ID is the cluster's.
// What the brokers refuse is explained by the variable to mend.
func ForeignCluster(ctx context.Context, cfg config.Config) (cl *foreign.Cluster, id string, err error) {
	opts, err := kafka.ClientOpts(cfg, "dlq", "cli", slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, "", err
	}
	if cl, err = foreign.Connect(opts); err != nil {
		return nil, "", err
	}
	if id, err = cl.ID(ctx); err != nil {
		cl.Close()
		return nil, "", kafka.Explain(cfg, err)
	}
	return cl, id, nil
}

// Import sends another system's dead letters back to where they came from. Order.Who
// is filled in.
func Import(ctx context.Context, cfg config.Config, o imports.Order) (rep *imports.Report, err error) {
	cl, id, err := ForeignCluster(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	opts, err := kafka.ClientOpts(cfg, "dlq", "import", slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	o.Who = person()
	err = direct(ctx, cfg, func(db *pgxpool.Pool) error {
		rep, err = imports.New(imports.Config{Names: kafka.Names{Prefix: cfg.KafkaTopicPrefix}},
			imports.Deps{DB: db, Cluster: cl, ID: id, Kafka: opts}).Run(ctx, o)
		return err
	})
	return rep, err
}

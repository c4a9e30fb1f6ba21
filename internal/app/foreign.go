package app

// Another system's dead-letter topic, read with nothing but Kafka.

import (
	"context"
	"log/slog"

	"github.com/perdure/perdure/dlq/foreign"
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

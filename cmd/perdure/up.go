package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/service"
)

func newUp(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Every role in one process, on embedded servers where none is named",
		Long: `Runs dispatcher, relay, worker and replayer in one process. A server that is not
named (PERDURE_POSTGRES_URL, PERDURE_REDIS_ADDRS, PERDURE_KAFKA_BROKERS) is
embedded and listens on loopback; its data are kept under PERDURE_DATA_DIR, the
embedded Redis excepted, which starts empty.

Every other command and your own worker find it by perdure.env in that folder.
Embedded servers are for a laptop.`,
		Example: `perdure up

# The same with a Postgres of yours
PERDURE_POSTGRES_URL=postgres://me@127.0.0.1/app perdure up`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.checked(config.LoadEnvironment())
			if err != nil {
				return err
			}
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			return app.Up(ctx, c.env(cfg))
		},
	}
}

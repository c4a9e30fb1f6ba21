package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
)

func newReplayer(c *cli) *cobra.Command {
	return c.role("replayer", "Index dead letters and run replays",
		`Copies dead letters and task events from Kafka into Postgres, and runs started
replays. Its API is the dispatcher's.`, app.Replayer)
}

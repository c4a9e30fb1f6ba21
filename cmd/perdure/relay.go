package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
)

func newRelay(c *cli) *cobra.Command {
	return c.role("relay", "Move accepted tasks from Postgres into Kafka",
		`Moves the outbox into Kafka, never skipping a row and never waiting for an open
transaction; files scheduled tasks; moves retries back to their queues. Run two:
one is active, the other takes over within seconds.`, app.Relay)
}

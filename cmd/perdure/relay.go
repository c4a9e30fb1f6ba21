package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
)

func newRelay(c *cli) *cobra.Command {
	return c.role("relay", "Move accepted tasks from Postgres into Kafka",
		`Moves the outbox into Kafka, never skipping a row and never waiting for an open
transaction; files scheduled tasks; moves retries back to their queues. Run two:
one is active, the other takes over within seconds.`,
		func(ctx context.Context, env app.Env) error {
			collectOften(os.LookupEnv)
			return app.Relay(ctx, env)
		})
}

// collectOften has garbage collected when half of what is in use has come on top, not
// as much again: nearly all that a relay holds is the chunks that it uses over and over,
// and a task leaves half a kilobyte of garbage. That is a sixth less memory for no
// time that could be measured. $GOGC is heard where it is set.
func collectOften(env func(string) (string, bool)) {
	if _, set := env("GOGC"); !set {
		debug.SetGCPercent(50)
	}
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
)

func newDispatcher(c *cli) *cobra.Command {
	cmd := c.role("dispatcher", "Accept tasks over HTTP, and serve all of /v1",
		`Accepts tasks, answers where they are, lists dead letters, plans replays. Needs
Postgres and Redis; tasks are accepted also while Kafka is away. Applies the
catalog at start. Without PERDURE_API_TOKENS_FILE it listens on loopback only.`, app.Dispatcher)
	cmd.Example = "perdure dispatcher\ncurl -d '{\"kind\":\"hello.world\",\"payload\":{}}' -H 'Content-Type: application/json' http://127.0.0.1:17070/v1/tasks"
	return cmd
}

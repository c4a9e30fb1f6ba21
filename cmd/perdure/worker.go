package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
)

func newWorker(c *cli) *cobra.Command {
	return c.role("worker", "Run the kinds that have an HTTP executor",
		`Runs tasks whose kind has executor: {http: …} in the catalog, by posting each to
its URL. Kinds without one run in a worker of your own: see worker.Main in the Go
package github.com/perdure/perdure/worker.`, app.Worker)
}

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app/demo"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/service"
)

func newDemo(c *cli) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A payment-dispute workflow with an outage and a killed worker, checked by a ledger",
		Long: `Runs examples/disputes from its input to its ledger in a temporary folder: 2,400
disputes are taken in, investigated at a bank and refunded. In the middle the bank
goes away for some seconds and a worker process is killed with SIGKILL; afterwards
dead letters are replayed by group. The last line counts what an independent
ledger found:

  accepted = completed + dead + lost   dead: letters still open at the end
  replayed: letters that were replayed rejected: lines that were never accepted

It exits 0 only if nothing is lost and no refund was paid twice.

Servers that are named (PERDURE_POSTGRES_URL, PERDURE_REDIS_ADDRS,
PERDURE_KAFKA_BROKERS) are used, with a database, topics and keys of the demo's
own, which it removes again; the others are embedded.`,
		Example: "perdure demo\nperdure demo -f disputes.ndjson",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.checked(config.LoadEnvironment())
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program, to start workers with: %w", err)
			}
			in, err := input(file)
			if err != nil {
				return err
			}
			defer in.Close() //nolint:errcheck // only read from
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			res, err := demo.Run(ctx, demo.Options{
				Config: cfg, Version: buildVersion(), Input: in, Out: c.errOut, Live: service.IsTerminal(c.errOut),
				Child: []string{self, "demo-worker"},
			})
			if err != nil {
				return err
			}
			if err := c.printer().One(res, func(w io.Writer) { fmt.Fprintln(w, res) }); err != nil {
				return err
			}
			return res.Err()
		},
	}
	wordVar(cmd.Flags(), &file, "file", "f", "other disputes, one JSON object a line; - reads stdin")
	return cmd
}

// input opens the file that was named; "" is the example's own, "-" stdin.
func input(file string) (io.ReadCloser, error) {
	if file == "" {
		return demo.ExampleInput(), nil
	}
	in, _, err := openLines(file)
	return in, exit.Usage(err)
}

// newDemoWorker is a worker process of the demo. It stops when its stdin ends,
// so that none is left behind by a demo that was killed.
func newDemoWorker(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:    "demo-worker BANK-URL",
		Short:  "A worker process of perdure demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			return demo.Worker(ctx, c.errOut, args[0], os.Stdin)
		},
	}
}

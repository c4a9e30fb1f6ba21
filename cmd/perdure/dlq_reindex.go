package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
)

func newDLQReindex(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "reindex",
		Short: "Put into the index every letter that Kafka still has",
		Long: `For a database that lost its dead letters, or was restored. Reads every dead-letter
topic of the catalog from its beginning, and writes what the index lacks: letters
with their key, content, fingerprint, and whether their task was completed. What is
in the index stays as it is. A letter that is restored is what the audit says that it
was: discarded, held or being replayed; one that the audit does not know is open, unless
its task was completed or died again. Reads the environment as perdure replayer does,
which may run meanwhile.`,
		Example: "perdure dlq reindex",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, cat, err := c.environment()
			if err != nil {
				return err
			}
			var read atomic.Int64 // the bar draws in a goroutine of its own
			finish := func() {}
			var begun sync.Once
			done, err := app.Reindex(cmd.Context(), cfg, cat, func(n, total int64) {
				read.Store(n)
				begun.Do(func() {
					finish = c.bar(total, read.Load, func() string { return fmt.Sprintf("%d records", read.Load()) })
				})
			})
			finish()
			if err != nil {
				return err
			}
			return c.printer().One(done, func(w io.Writer) {
				fmt.Fprintf(w, "read %d records of %d topics: %d letters, of which the index lacked %d, and %d resolutions\n",
					done.Records, done.Topics, done.Letters, done.Restored, done.Resolutions)
			})
		},
	}
}

func newDLQRecount(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "recount",
		Short: "Count the failure groups anew, after a restore of the letters' data alone",
		Long: `Failure groups are counted as letters change, by triggers of Postgres. For whoever wrote
letters around those, as pg_restore --data-only does. No letter is written meanwhile, at
ten million letters for more than 10 s. Reads the environment as perdure replayer does.`,
		Example: "perdure dlq recount",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := c.environment()
			if err != nil {
				return err
			}
			if err := app.Recount(cmd.Context(), cfg); err != nil {
				return err
			}
			return c.printer().One(map[string]bool{"recounted": true}, func(w io.Writer) { fmt.Fprintln(w, "failure groups are counted anew") })
		},
	}
}

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/balance"
	"github.com/perdure/perdure/internal/output"
)

func newBalance(c *cli) *cobra.Command {
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "balance",
		Short: "Where every accepted task is: completed, waiting, dead … or lost",
		Long: `Looks, at any time and on any running system, where every task is whose outbox row
is still kept (PERDURE_HISTORY). It asks Postgres, Redis and Kafka themselves, and
believes no counter. Exits 1 if a task is nowhere.

  accepted = completed + waiting + dead + discarded + cancelled + lost`,
		Example: "perdure balance\nperdure balance --since 24h -o json | jq .where",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, cat, err := c.environment()
			if err != nil {
				return err
			}
			var from time.Time
			if since > 0 {
				from = time.Now().Add(-since)
			}
			r, err := app.Balance(cmd.Context(), cfg, cat, from)
			if err != nil {
				return err
			}
			if err := c.printer().One(r, func(w io.Writer) { showBalance(w, &r) }); err != nil {
				return err
			}
			if r.Lost > 0 {
				return errors.New("accepted tasks are nowhere to be found")
			}
			return nil
		},
	}
	agoVar(cmd.Flags(), &since, "since", "accepted at most this long ago, such as 24h; default: all that are known")
	return cmd
}

func showBalance(w io.Writer, r *balance.Report) {
	for _, where := range slices.Sorted(maps.Keys(r.Where)) {
		if n := r.Where[where]; n > 0 {
			fmt.Fprintf(w, "  waiting: %d %s\n", n, output.Safe(where))
		}
	}
	if r.Inferred > 0 {
		fmt.Fprintf(w, "  completed: %d inferred: Redis no longer knows them; their records are committed and left no letter\n", r.Inferred)
	}
	if r.Strays > 0 {
		fmt.Fprintf(w, "  open letters of records that were no accepted task: %d\n", r.Strays)
	}
	if r.Forgot {
		fmt.Fprintln(w, "  Redis was lost, and no worker has opened it again yet")
	}
	for _, l := range r.LostIDs {
		fmt.Fprintf(w, "  lost: %s: %s\n", output.Safe(l.ID), output.Safe(l.Why))
	}
	fmt.Fprintln(w, r.Line())
}

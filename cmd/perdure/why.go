package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
)

func newWhy(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "why ID",
		Short: "Why a task is not finished: one sentence, and what to run next",
		Long: `Says where a task is and what holds it there: a relay that is not running, a
topic that takes nothing, a queue without workers, a retry that is not due, an open
breaker, an earlier task of its key, a dead letter … and the one command to run
next. It is made from what Postgres, Kafka and Redis say now. Where nothing is
known that holds the task it says so, and does not guess. Times are UTC.

A task whose transaction has not committed cannot be seen by anybody: why names
the transactions that may have it.

Exits 1 for an id under which nothing is known.`,
		Example: `perdure why main-1-42
perdure why main-1-42 -o json | jq -r .cause`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var w dispatcher.Why
			err = cl.Get(cmd.Context(), apiclient.Path("tasks", args[0], "why"), nil, &w)
			var p *apiclient.Problem
			if errors.As(err, &p) && dispatcher.UnknownBy(unknownCause(p)) {
				return c.whyUnknown(args[0], p)
			}
			if err != nil {
				return err
			}
			return c.printer().One(w, func(out io.Writer) {
				fmt.Fprintf(out, "%s %s.\n  next: %s\n", output.Safe(w.TaskID), output.Safe(w.Why), output.Safe(w.Command))
			})
		},
	}
}

// whyUnknown tells of an id under which nothing is known: to a program as of any
// other, to a person as an error.
func (c *cli) whyUnknown(id string, p *apiclient.Problem) error {
	if c.format == output.Text {
		return fmt.Errorf("%s: %w", id, p)
	}
	w := dispatcher.Why{
		TaskID: id, State: dispatcher.StateUnknown, Why: p.Detail, Command: p.Next,
		Cause: unknownCause(p),
	}
	if err := c.printer().One(w, nil); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", id, p)
}

// unknownCause is the cause that a problem's type names.
func unknownCause(p *apiclient.Problem) dispatcher.Cause {
	return dispatcher.Cause(strings.ReplaceAll(p.Name(), "-", "_"))
}

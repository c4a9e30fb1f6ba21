package main

// `perdure dlq discard|hold|release`: decisions of letters without a run.

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
)

// newDLQDecide is one decision; past is what was done with the letters.
func newDLQDecide(c *cli, name, past, short, long string) *cobra.Command {
	var body dlq.DecideBody
	var yes bool
	sel := &body.Selector
	cmd := &cobra.Command{
		Use:   name + " [ID...]",
		Short: short,
		Long:  long,
		Example: "perdure dlq " + name + " main-1-42 --why \"a test of ours\" --yes\n" +
			"perdure dlq " + name + " --group fp2:4771f883ced71064 --why \"the shop is closed\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			sel.IDs = args
			if len(args) == 0 && sel.Group+sel.Kind+sel.Queue+sel.Reason+sel.Key == "" {
				return exit.Usage(errors.New("say which letters: ID, --group, --kind, --queue, --reason or --key"))
			}
			if body.Why == "" {
				return exit.Usage(errors.New("say --why: it is written down with your name"))
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			path := apiclient.Path("dead-letters", name)
			body.DryRun = !yes
			var all dlq.Decided
			for all.More = true; all.More; { // a request decides of so many and no more
				var a dlq.Decided
				if err := cl.Post(cmd.Context(), path, body, &a); err != nil {
					if all.Letters > 0 {
						err = fmt.Errorf("after %s were %s: %w", letters(all.Letters), past, err)
					}
					return err
				}
				if !yes && a.Letters > 0 {
					return wouldDecide(&a, past)
				}
				all.Letters, all.More = all.Letters+a.Letters, a.More
				if all.More {
					fmt.Fprintf(c.errOut, "%s %s, going on\n", letters(all.Letters), past)
				}
			}
			if all.Letters == 0 {
				return fmt.Errorf("no letter matches that can be %s\n  next: perdure dlq ls", past)
			}
			return c.printer().One(all, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", letters(all.Letters), past) })
		},
	}
	fs := cmd.Flags()
	wordVar(fs, &sel.Group, "group", "", "letters of this failure group")
	wordVar(fs, &sel.Kind, "kind", "", "letters of this kind")
	wordVar(fs, &sel.Queue, "queue", "", "letters of this queue")
	reasonVar(fs, &sel.Reason, "letters that died for this reason")
	wordVar(fs, &sel.Key, "key", "", "letters of this key")
	wordVar(fs, &body.Why, "why", "", "for the audit; must be given")
	fs.BoolVar(&yes, "yes", false, "do it; without, only count")
	return cmd
}

// wouldDecide refuses what --yes did not ask for, and says what it would be.
func wouldDecide(a *dlq.Decided, past string) error {
	least := ""
	if a.More {
		least = "at least "
	}
	return exit.Refusal(fmt.Errorf("%s%s would be %s: say --yes", least, letters(a.Letters), past))
}

func letters(n int) string {
	if n == 1 {
		return "1 letter"
	}
	return fmt.Sprintf("%d letters", n)
}

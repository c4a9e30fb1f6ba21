package main

// `perdure replay letters`: what became of each letter of a replay.

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

func newReplayLetters(c *cli) *cobra.Command {
	var which string
	limit := 100
	cmd := &cobra.Command{
		Use:   "letters ID",
		Short: "The letters of a replay in its order, with what became of each",
		Example: `perdure replay letters r-va6ybdljmki2
perdure replay letters r-va6ybdljmki2 --which died_again -o jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			q := url.Values{}
			if which != "" {
				q.Set("which", which)
			}
			list, more, err := pages[replayer.ReplayLetter](cmd, cl, apiclient.Path("replays", args[0], "letters"), "letters", q, limit, nil)
			if err != nil {
				return err
			}
			if more {
				fmt.Fprintf(c.errOut, "more letters match: --limit %d shows more\n", limit*10)
			}
			return output.Table(c.printer(), list, "no letters", []string{"N", "LETTER", "KIND", "KEY", "DIED", "RESULT", "OUTCOME", "WHY"}, letterLine)
		},
	}
	wordVar(cmd.Flags(), &which, "which", "", "only those that are left, refused, or died_again")
	limitVar(cmd.Flags(), &limit, "limit", "at most this many")
	return cmd
}

func letterLine(l replayer.ReplayLetter) []string {
	died, outcome := "", l.Outcome
	if l.DiedAt != nil {
		died = l.DiedAt.Local().Format(time.DateTime)
	}
	if l.Group != "" {
		outcome += " of " + l.Group
	}
	return []string{strconv.FormatInt(l.N, 10), l.Letter, l.Kind, l.Key, died, l.Result, outcome, l.Why}
}

// showFirst prints a plan's first letters.
func showFirst(w io.Writer, r *replayer.Replay) {
	if len(r.First) == 0 {
		return
	}
	fmt.Fprintln(w, "first letters")
	for _, l := range r.First {
		fmt.Fprintf(w, "  %s  %s", output.Safe(l.Letter), output.Safe(l.Kind))
		if l.Key != "" {
			fmt.Fprintf(w, ", key %s", output.Cut(l.Key, 100))
		}
		if l.Why != "" {
			fmt.Fprintf(w, ": refused, %s\n", output.Cut(l.Why, 200))
			continue
		}
		fmt.Fprintf(w, ": %s\n", output.Cut(said(l.ErrorClass, l.Message), 200))
	}
}

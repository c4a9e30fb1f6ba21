package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

func newReplay(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Put dead letters back to work, once their cause is repaired",
		Long: `A replay freezes the letters that its selector names, then puts each back into the
outbox under the same task id and the next epoch. A task that completed is refused.

replay start exits 1 if no letter matches, and 3 if every one is refused.`,
		Example: `perdure dlq groups
perdure replay start --group fp1:4771f883ced71064 --dry-run
perdure replay start --group fp1:4771f883ced71064 --why "bank fixed its shard" --yes
perdure replay status r-va6ybdljmki2`,
	}
	cmd.AddCommand(newReplayStart(c), newReplayStatus(c), newReplayCancel(c))
	return cmd
}

func newReplayStart(c *cli) *cobra.Command {
	var (
		sel    replayer.Selector
		yes    bool
		dryRun bool
		why    string
	)
	cmd := &cobra.Command{
		Use:   "start [PLAN]",
		Short: "Begin a planned replay, or plan one by --group, --id, --kind … and begin it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			selected := len(sel.IDs) > 0 || sel.Group+sel.Kind+sel.Queue+sel.Reason+sel.Key != ""
			if selected == (len(args) == 1) {
				return exit.Usage(errors.New("say which letters: either a PLAN, or --group, --id, --kind, --queue, --reason, --key"))
			}
			if !yes && !dryRun {
				return exit.Refusal(errors.New("a replay runs tasks again: look with --dry-run, then say --yes"))
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var r replayer.Replay
			if len(args) == 1 {
				err = cl.Post(cmd.Context(), apiclient.Path("replays", args[0], "start"), nil, &r)
			} else {
				body := map[string]any{"selector": sel, "dry_run": dryRun, "start": true, "why": why}
				err = cl.Post(cmd.Context(), "/v1/replays", body, &r)
			}
			if err != nil {
				return err
			}
			if r, err = waitReplay(cmd, cl, r); err != nil {
				return err
			}
			if err := c.printer().One(r, func(w io.Writer) { showReplay(w, &r) }); err != nil {
				return err
			}
			return nothingDone(&r)
		},
	}
	f := cmd.Flags()
	wordVar(f, &sel.Group, "group", "", "letters of this failure group")
	wordsVar(f, &sel.IDs, "id", "this letter or task; may be repeated")
	wordVar(f, &sel.Kind, "kind", "", "letters of this kind")
	wordVar(f, &sel.Queue, "queue", "", "letters of this queue")
	wordVar(f, &sel.Reason, "reason", "", "letters that died for this reason")
	wordVar(f, &sel.Key, "key", "", "letters of this key")
	wordVar(f, &why, "why", "", "for the audit")
	f.BoolVar(&dryRun, "dry-run", false, "look at every letter and say what would happen; change nothing")
	f.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// nothingDone is the error of a replay that is over and moved nothing, so that
// a script does not take it for a repair. One that moved some letters did work:
// its counts are shown.
func nothingDone(r *replayer.Replay) error {
	switch {
	case r.Letters == 0:
		return errors.New("no open letter matches, so nothing is replayed\n  next: perdure dlq groups --state open")
	case r.Replayed > 0 || r.State == replayer.Running:
		return nil
	case r.State == replayer.Cancelled:
		return fmt.Errorf("replay %s was cancelled before it replayed anything", r.ID)
	}
	var why strings.Builder
	for _, f := range r.Refusals {
		fmt.Fprintf(&why, "\n  %d: %s", f.Letters, f.Why)
	}
	return exit.Refusal(fmt.Errorf("all %d letters are refused, so nothing is replayed%s", r.Letters, why.String()))
}

// waitReplay looks until every letter was looked at; Ctrl-C leaves the replay
// running.
func waitReplay(cmd *cobra.Command, cl *apiclient.Client, r replayer.Replay) (replayer.Replay, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for r.State == replayer.Running && r.Letters > 0 {
		select {
		case <-cmd.Context().Done():
			return r, nil
		case <-tick.C:
		}
		if err := cl.Get(cmd.Context(), apiclient.Path("replays", r.ID), nil, &r); err != nil {
			return r, err
		}
	}
	return r, nil
}

func newReplayStatus(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "status [ID]",
		Short: "How far a replay is and what became of its tasks; without ID, all replays",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			if len(args) == 1 {
				var r replayer.Replay
				if err := cl.Get(cmd.Context(), apiclient.Path("replays", args[0]), nil, &r); err != nil {
					return err
				}
				return c.printer().One(r, func(w io.Writer) { showReplay(w, &r) })
			}
			var answer struct {
				Replays []replayer.Replay `json:"replays"`
			}
			if err := cl.Get(cmd.Context(), "/v1/replays", nil, &answer); err != nil {
				return err
			}
			return output.Table(c.printer(), answer.Replays, "no replays", []string{"REPLAY", "STATE", "LETTERS", "LEFT", "REPLAYED", "REFUSED", "WHO", "CREATED"},
				func(r replayer.Replay) []string {
					return []string{r.ID, replayState(&r), fmt.Sprint(r.Letters), fmt.Sprint(r.Left), fmt.Sprint(r.Replayed), fmt.Sprint(r.Refused), r.Who, r.CreatedAt.Local().Format(time.DateTime)}
				})
		},
	}
}

func newReplayCancel(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID",
		Short: "End a replay; what it moved stays moved",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var r replayer.Replay
			if err := cl.Post(cmd.Context(), apiclient.Path("replays", args[0], "cancel"), nil, &r); err != nil {
				return err
			}
			return c.printer().One(r, func(w io.Writer) { showReplay(w, &r) })
		},
	}
}

func replayState(r *replayer.Replay) string {
	if r.DryRun {
		return string(r.State) + " (dry run)"
	}
	return string(r.State)
}

func showReplay(w io.Writer, r *replayer.Replay) {
	replayed := "replayed"
	if r.DryRun {
		replayed = "would replay"
	}
	output.Fields(w,
		[2]string{"replay", r.ID}, [2]string{"state", replayState(r)}, [2]string{"selector", string(r.Selector)}, [2]string{"who", r.Who}, [2]string{"why", r.Why},
		[2]string{"letters", fmt.Sprint(r.Letters)}, [2]string{"left", fmt.Sprint(r.Left)}, [2]string{replayed, fmt.Sprint(r.Replayed)}, [2]string{"refused", fmt.Sprint(r.Refused)})
	for _, f := range r.Refusals {
		fmt.Fprintf(w, "  %d refused: %s (such as %s)\n", f.Letters, output.Safe(f.Why), output.Safe(f.Sample))
	}
	if b := r.Became; b != nil {
		fmt.Fprintf(w, "  became: %d completed, %d died again, %d under way\n", b.Completed, b.DiedAgain, b.UnderWay)
	}
}

package main

// `perdure dlq ack|mute|resolve|reopen|note`: what people say of a failure group.

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
)

// careCommand changes what is said of the group in its first argument; fill
// makes the change of the rest.
func careCommand(c *cli, use, short, long, example string, args cobra.PositionalArgs, flags func(*pflag.FlagSet, *dlq.CareChange), fill func(*dlq.CareChange, []string) error) *cobra.Command {
	var change dlq.CareChange
	var owner string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if owner != "" {
				change.Owner = &owner
			}
			if err := fill(&change, args[1:]); err != nil {
				return exit.Usage(err)
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			return changeGroup(cmd.Context(), c, cl, args[0], &change)
		},
	}
	wordVar(cmd.Flags(), &owner, "owner", "", "whose it is")
	whyVar(cmd.Flags(), &change.Why)
	if flags != nil {
		flags(cmd.Flags(), &change)
	}
	return cmd
}

func changeGroup(ctx context.Context, c *cli, cl *apiclient.Client, group string, change *dlq.CareChange) error {
	var g dlq.Group
	if err := cl.Patch(ctx, apiclient.Path("failure-groups", group), change, &g); err != nil {
		return err
	}
	return c.printer().One(g, func(w io.Writer) { showGroup(w, &g) })
}

func newDLQState(c *cli, name, state, short, long string) *cobra.Command {
	return careCommand(c, name+" FP", short, long, "perdure dlq "+name+" fp2:4771f883ced71064 --owner ann", cobra.ExactArgs(1), nil,
		func(change *dlq.CareChange, _ []string) error {
			change.State = &state
			return nil
		})
}

func newDLQResolve(c *cli) *cobra.Command {
	state := "resolved"
	var release string
	return careCommand(c, "resolve FP", "Say that the cause of a failure group is mended",
		`Should it kill again, in a release after this, the group is regressed. Releases are
ordered by when letters died in them. After this are the one of --release and all that
began to kill no sooner; without --release the newest one, if the group has not died in
it, and all that are newer. Letters of releases before, whose workers are not gone yet,
change nothing.`,
		"perdure dlq resolve fp2:4771f883ced71064 --release v1.5 --owner ann", cobra.ExactArgs(1),
		func(fs *pflag.FlagSet, _ *dlq.CareChange) {
			wordVar(fs, &release, "release", "", "the first PERDURE_RELEASE in which it is mended")
		},
		func(change *dlq.CareChange, _ []string) error {
			if change.State = &state; release != "" {
				change.Release = &release
			}
			return nil
		})
}

func newDLQMute(c *cli) *cobra.Command {
	var length time.Duration
	state := "muted"
	return careCommand(c, "mute FP", "Leave a failure group out of perdure dlq groups, for a while or until reopen",
		"Its letters still die, are counted, and can be replayed: perdure dlq groups --care muted shows it.",
		"perdure dlq mute fp2:4771f883ced71064 --for 72h --why \"the vendor mends it on Monday\"", cobra.ExactArgs(1),
		func(fs *pflag.FlagSet, _ *dlq.CareChange) {
			agoVar(fs, &length, "for", "how long; default until reopen")
		},
		func(change *dlq.CareChange, _ []string) error {
			change.State = &state
			if length > 0 {
				until := time.Now().Add(length).UTC()
				change.Until = &until
			}
			return nil
		})
}

func newDLQNote(c *cli) *cobra.Command {
	var runbook string
	return careCommand(c, "note FP [TEXT]", "Write down what is known of a failure group, whose it is, and what to do",
		"TEXT takes the old note's place; \"\" takes it away.",
		"perdure dlq note fp2:4771f883ced71064 \"shard 7 is read-only until 04:00\" --runbook https://wiki.example/shards", cobra.RangeArgs(1, 2),
		func(fs *pflag.FlagSet, _ *dlq.CareChange) {
			wordVar(fs, &runbook, "runbook", "", "an http or https address")
		},
		func(change *dlq.CareChange, rest []string) error {
			if len(rest) == 1 {
				change.Note = &rest[0]
			}
			if runbook != "" {
				change.Runbook = &runbook
			}
			if change.Note == nil && change.Runbook == nil && change.Owner == nil {
				return errors.New("say TEXT, --owner or --runbook")
			}
			return nil
		})
}

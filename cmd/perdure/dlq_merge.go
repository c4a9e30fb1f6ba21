package main

// `perdure dlq merge|unmerge`: two fingerprints, one cause.

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
)

func newDLQMerge(c *cli) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:   "merge FP INTO",
		Short: "Say that two failure groups are one cause",
		Long: `The letters of FP become letters of INTO, also those to come and those of an index
that is made again. Owner, note and mute are INTO's; plans keep their letters; FP
goes on to name the group. perdure dlq unmerge FP takes it back.`,
		Example: "perdure dlq merge fp2:4771f883ced71064 fp2:08b1e34f0c6a2d55 --why \"the same shard, another driver\"",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return mergeGroup(c, cmd, args[0], "merge", map[string]string{"into": args[1], "why": why})
		},
	}
	whyVar(cmd.Flags(), &why)
	return cmd
}

func newDLQUnmerge(c *cli) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:     "unmerge FP",
		Short:   "Take a merge back: the letters of a cause are its own group again",
		Long:    "What was said of FP before the merge is said of it again.",
		Example: "perdure dlq unmerge fp2:4771f883ced71064",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return mergeGroup(c, cmd, args[0], "unmerge", map[string]string{"why": why})
		},
	}
	whyVar(cmd.Flags(), &why)
	return cmd
}

func mergeGroup(c *cli, cmd *cobra.Command, group, act string, body map[string]string) error {
	cl, err := c.api()
	if err != nil {
		return err
	}
	defer cl.Close()
	var m dlq.Merged
	if err := cl.Post(cmd.Context(), apiclient.Path("failure-groups", group, act), body, &m); err != nil {
		return err
	}
	return c.printer().One(m, func(w io.Writer) {
		fmt.Fprintf(w, "%s moved; the letters of %s are those of group %s\n", letters(int(m.Moved)), output.Safe(group), output.Safe(m.Group))
	})
}

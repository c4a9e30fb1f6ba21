package main

// `perdure policy`: the catalog's replay policies.

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

func newPolicy(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "What the catalog's policies do about dead letters",
		Long: `A policy of the catalog replays, discards or holds the letters of the groups that it
matches, within its limits. One that makes nothing better switches itself off.`,
		Example: "perdure policy ls\nperdure policy test bank-is-back\nperdure policy disable bank-is-back --why \"we look ourselves\"",
	}
	cmd.AddCommand(newPolicyList(c), newPolicyShow(c), newPolicySwitch(c, "enable", "Let a policy act; its strikes are forgotten"),
		newPolicySwitch(c, "disable", "Let a policy act no more; a replay of its goes on"))
	return cmd
}

func newPolicyList(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List policies and what they did",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var answer struct {
				Policies []replayer.PolicyView `json:"policies"`
			}
			if err := cl.Get(cmd.Context(), "/v1/policies", nil, &answer); err != nil {
				return err
			}
			return output.Table(c.printer(), answer.Policies, "the catalog has no policies", []string{"POLICY", "STATE", "ACTION", "LETTERS", "STRIKES", "REPLAY", "NOTE"},
				func(p replayer.PolicyView) []string {
					return []string{p.Policy, policyState(&p), p.Action, strconv.FormatInt(p.Letters, 10), strconv.Itoa(p.Strikes), p.Replay, output.Cut(p.Note, 80)}
				})
		},
	}
}

func policyState(p *replayer.PolicyView) string {
	switch {
	case !p.Enabled:
		return "off"
	case p.DryRun:
		return "dry run"
	}
	return "on"
}

func newPolicyShow(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "test NAME",
		Short: "What a policy would do now: the groups that it matches, and what it waits for",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var p replayer.PolicyView
			if err := cl.Get(cmd.Context(), apiclient.Path("policies", args[0]), nil, &p); err != nil {
				return err
			}
			return c.printer().One(p, func(w io.Writer) { showPolicy(w, &p) })
		},
	}
}

func newPolicySwitch(c *cli, name, short string) *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:   name + " NAME",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var p replayer.PolicyView
			if err := cl.Post(cmd.Context(), apiclient.Path("policies", args[0], name), map[string]string{"why": why}, &p); err != nil {
				return err
			}
			return c.printer().One(p, func(w io.Writer) { showPolicy(w, &p) })
		},
	}
	whyVar(cmd.Flags(), &why)
	return cmd
}

func showPolicy(w io.Writer, p *replayer.PolicyView) {
	acted := ""
	if p.ActedAt != nil {
		acted = p.ActedAt.Local().Format(time.DateTime)
	}
	output.Fields(w, [2]string{"policy", p.Policy}, [2]string{"state", policyState(p)}, [2]string{"action", p.Action},
		[2]string{"kind", p.Kind}, [2]string{"class", p.Class}, [2]string{"reason", p.Reason}, [2]string{"message", p.Message},
		[2]string{"note", p.Note}, [2]string{"strikes", strconv.Itoa(p.Strikes)}, [2]string{"replay", p.Replay},
		[2]string{"letters", strconv.FormatInt(p.Letters, 10)}, [2]string{"acted", acted})
	for _, g := range p.Groups {
		what := "it acts now"
		if g.Waits != "" {
			what = g.Waits
		}
		fmt.Fprintf(w, "  %s: %d open letters (such as %s): %s\n", output.Safe(g.Group), g.Letters, output.Safe(g.Sample), what)
	}
}

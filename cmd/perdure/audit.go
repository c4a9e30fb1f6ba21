package main

// `perdure audit`: who did what, and whether the record of it is whole.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/audit"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
)

func newAudit(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Who did what to dead letters, replays and policies",
		Long: `Every act is a row that holds the hash of the row before it: one that was changed, taken
out or moved is found by perdure audit verify. Keep the hash that it prints elsewhere, and a
chain that was written anew is found too.`,
		Example: "perdure audit ls --replay r-va6ybdljmki2\nperdure audit verify\nperdure audit export > audit.ndjson",
	}
	cmd.AddCommand(newAuditList(c), newAuditVerify(c), newAuditExport(c))
	return cmd
}

func newAuditList(c *cli) *cobra.Command {
	var who, what, replay string
	limit := 50
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List acts, the latest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			q := url.Values{"limit": {strconv.Itoa(min(limit, 1000))}}
			for name, v := range map[string]string{"who": who, "what": what, "replay": replay} {
				if v != "" {
					q.Set(name, v)
				}
			}
			var answer struct {
				Rows []audit.Row `json:"rows"`
			}
			if err := cl.Get(cmd.Context(), "/v1/audit", q, &answer); err != nil {
				return err
			}
			return output.Table(c.printer(), answer.Rows, "nobody did anything", []string{"PLACE", "AT", "WHO", "WHAT", "REPLAY", "LETTER", "WHY"},
				func(r audit.Row) []string {
					return []string{strconv.FormatInt(r.Place, 10), r.At.Local().Format(time.DateTime), r.Who, r.What, r.Replay, r.Letter, output.Cut(r.Why, 60)}
				})
		},
	}
	wordVar(cmd.Flags(), &who, "who", "", "only this token's, person's or policy's acts")
	wordVar(cmd.Flags(), &what, "what", "", "only these acts, such as replay.start")
	wordVar(cmd.Flags(), &replay, "replay", "", "only acts on this replay")
	limitVar(cmd.Flags(), &limit, "limit", "at most this many, up to 1000")
	return cmd
}

func newAuditVerify(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Read the whole chain and recompute every hash; exit 1 if it is broken",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var v audit.Verdict
			if err := cl.Get(cmd.Context(), "/v1/audit/verify", nil, &v); err != nil {
				return err
			}
			if err := c.printer().One(v, func(w io.Writer) {
				output.Fields(w, [2]string{"rows", strconv.FormatInt(v.Rows, 10)}, [2]string{"places", fmt.Sprintf("%d to %d", v.From, v.To)}, [2]string{"hash", v.Hash}, [2]string{"broken", v.Broken})
			}); err != nil {
				return err
			}
			if v.Broken != "" {
				return fmt.Errorf("the audit's chain is broken at place %d: %s", v.Place, v.Broken)
			}
			return nil
		},
	}
}

func newAuditExport(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Write the whole chain, in its order, as NDJSON",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.linesOnly(cmd); err != nil {
				return err
			}
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			return cl.GetLines(cmd.Context(), apiclient.Path("audit", "export"), nil, c.exported)
		},
	}
}

// linesOnly refuses an -o that an export cannot have: it is as long as what it exports.
func (c *cli) linesOnly(cmd *cobra.Command) error {
	if cmd.Flags().Changed("output") && c.format != output.JSONL {
		return exit.Usage(fmt.Errorf("-o %s: an export is one JSON document a line, which is -o jsonl, said or not", c.format))
	}
	return nil
}

// exported writes a line of an export, whose last line is an error where it is not
// whole.
func (c *cli) exported(line []byte) error {
	if bytes.HasPrefix(line, []byte(`{"error":`)) {
		return errors.New("the export ended early: ask again")
	}
	_, err := c.out.Write(output.SafeJSON(line))
	return err
}

package main

// `perdure replay report`: the note of an incident, ready to paste.

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

// reportFormat is -o of this command, which has one more than the others.
type reportFormat struct {
	markdown bool
	output.Format
}

func (f *reportFormat) String() string {
	if f.markdown {
		return "md"
	}
	return string(f.Format)
}

func (f *reportFormat) Set(s string) error {
	if f.markdown = s == "md"; f.markdown {
		return nil
	}
	if err := f.Format.Set(s); err != nil {
		return fmt.Errorf("%q is none of text, md, json, jsonl", s)
	}
	return nil
}

func newReplayReport(c *cli) *cobra.Command {
	f := reportFormat{Format: output.Text}
	cmd := &cobra.Command{
		Use:   "report PLAN",
		Short: "The note of an incident: cause, counts, what was refused and why, who did what",
		Long: `What was replayed and why, what became of it until now, who did what and when, and the
hashes that pin the plan and the audit. -o md writes Markdown to paste: what comes from
tasks and their errors stands in code spans that it cannot leave.`,
		Example: "perdure replay report r-va6ybdljmki2 -o md",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var r replayer.Report
			if err := cl.Get(cmd.Context(), apiclient.Path("replays", args[0], "report"), nil, &r); err != nil {
				return err
			}
			if f.markdown {
				_, err := io.WriteString(c.out, markdownReport(&r))
				return err
			}
			return output.Printer{Format: f.Format, W: c.out}.One(r, func(w io.Writer) { textReport(w, &r) })
		},
	}
	cmd.Flags().VarP(&f, "output", "o", "text, md, json or jsonl")
	return cmd
}

// headline is what a replay came to, in a line.
func headline(r *replayer.Replay) string {
	if r.DryRun {
		return fmt.Sprintf("dry run: %d of %s would go, %d refused", r.Replayed, letters(int(r.Letters)), r.Refused)
	}
	s := fmt.Sprintf("%d of %s replayed, %d refused", r.Replayed, letters(int(r.Letters)), r.Refused)
	if b := r.Became; b != nil && r.Replayed > 0 {
		s += fmt.Sprintf("; %d completed, %d died again, %d under way", b.Completed, b.DiedAgain, b.UnderWay)
		if b.Other > 0 {
			s += fmt.Sprintf(", %d cancelled or discarded", b.Other)
		}
	}
	return s
}

// textReport is the status and what it does not say.
func textReport(w io.Writer, r *replayer.Report) {
	showReplay(w, &r.Replay)
	fmt.Fprintln(w, "\ncauses")
	for _, x := range r.Causes {
		fmt.Fprintf(w, "  %d died of %s: %s\n", x.Letters, output.Safe(x.Group), output.Cut(said(x.ErrorClass, x.Message), 200))
		for _, s := range []string{x.Owner, x.Note, x.Runbook} {
			if s != "" {
				fmt.Fprintf(w, "    %s\n", output.Cut(s, 300))
			}
		}
	}
	if r.Gone > 0 {
		fmt.Fprintf(w, "  of %d it is no longer known: they have left the index\n", r.Gone)
	}
	fmt.Fprintln(w, "\nwho did what")
	for _, a := range r.Acts {
		fmt.Fprintf(w, "  %s  %s  %s%s\n", a.First.Local().Format(time.DateTime), output.Safe(a.Who), actOf(&a, a.Last.Local().Format(time.DateTime)), reason(a.Why, output.Safe))
	}
	fmt.Fprintf(w, "\naudit  %d rows, places %d to %d, last hash %s\n", r.Audit.Rows, r.Audit.From, r.Audit.To, r.Audit.Hash)
}

func actOf(a *replayer.ReportAct, last string) string {
	if a.Times == 1 {
		return output.Safe(a.What)
	}
	return fmt.Sprintf("%s, %d times until %s", output.Safe(a.What), a.Times, last)
}

func reason(why string, show func(string) string) string {
	if why == "" {
		return ""
	}
	return ": " + show(why)
}

// markdownReport is the note. Only constant words and numbers are Markdown of ours;
// everything else is in code spans.
func markdownReport(p *replayer.Report) string {
	r := &p.Replay
	utc := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Replay %s: %s\n", code(r.ID), headline(r))
	line("- state: %s%s", code(replayState(r)), reason(r.Note, code))
	line("- planned by %s, %s%s", code(r.Who), utc(r.CreatedAt), reason(r.Why, code))
	if r.Approval != "" {
		by := "not approved yet"
		if r.ApprovedBy != "" {
			by = "approved by " + code(r.ApprovedBy)
		}
		line("- %s, because %s", by, code(r.Approval))
	}
	line("- letters: %s", code(string(r.Selector)))
	if r.Spec.Where != "" {
		line("- where: %s", code(r.Spec.Where))
	}
	line("- canary: %s; rate: %s; stops: %s", code(canaryOf(&r.Spec)), code(rateOf(r)), code(stopsOf(&r.Spec.Stop)))

	line("\n## Cause\n")
	for _, x := range p.Causes {
		line("- %s of %s, %s to %s", letters(int(x.Letters)), code(x.Group), utc(x.FirstDied), utc(x.LastDied))
		line("  - error: %s", code(said(x.ErrorClass, x.Message)))
		for _, s := range [][2]string{{"owner", x.Owner}, {"note", x.Note}, {"runbook", x.Runbook}} {
			if s[1] != "" {
				line("  - %s: %s", s[0], code(s[1]))
			}
		}
	}
	if p.Gone > 0 {
		line("- %s whose cause is no longer known: out of the index", letters(int(p.Gone)))
	}
	line("\n## Refused\n")
	for _, f := range r.Refusals {
		line("- %d: %s, such as %s", f.Letters, code(f.Why), code(f.Sample))
	}
	if len(r.Refusals) == 0 {
		line("none")
	}
	if r.Became != nil && len(r.Became.Causes) > 0 {
		line("\n## Died again\n")
		for _, f := range r.Became.Causes {
			line("- %d of %s", f.Letters, code(f.Group))
		}
	}
	line("\n## Who did what\n")
	for _, a := range p.Acts {
		line("- %s %s %s%s", utc(a.First), code(a.Who), actOf(&a, utc(a.Last)), reason(a.Why, code))
	}
	line("\n## Proof\n")
	line("- plan: %s", code(r.Hash))
	line("- audit: places %d to %d, last hash %s; check it with %s", p.Audit.From, p.Audit.To, code(p.Audit.Hash), code("perdure audit verify"))
	return b.String()
}

// code is a Markdown code span of any text, cut at 500 characters. Nothing in it is
// Markdown, HTML or a mention: it is on one line, and its fence is longer than any
// run of backquotes inside.
func code(s string) string {
	s = output.Cut(s, 500)
	if s == "" {
		return "(empty)"
	}
	longest, run := 0, 0
	for _, c := range s {
		if c != '`' {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
	}
	if longest == 0 {
		return "`" + s + "`"
	}
	fence := strings.Repeat("`", longest+1)
	return fence + " " + s + " " + fence
}

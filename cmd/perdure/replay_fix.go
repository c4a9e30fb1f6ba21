package main

// Repairing payloads on their way: the flags of a plan's fixer, what a plan shows
// of it, and the process that runs jq.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/jqchild"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

const fixLong = `
A fixer repairs each payload on its way: --fix-jq gives the new one, --fix-patch is a
JSON Patch (RFC 6902) in a file, --fix names a fixer of the catalog, such as a repair
agent that is asked by HTTP. The letter keeps the original; both are shown for the
first five letters, as a diff. The repaired payload must fit its kind's schema, and the
downstream sees it under another idempotency key, <task id>-r1. So a task that has run
before is repaired only if you say, with --no-effects and a reason, that its runs did
nothing.`

// fixFlags are a plan's fixer.
type fixFlags struct {
	replayer.Fixer
	patchFile string
}

func (p *fixFlags) register(f *pflag.FlagSet) {
	wordVar(f, &p.JQ, "fix-jq", "", "repair payloads by this jq program, such as '.amount |= tonumber'; $letter is the letter")
	wordVar(f, &p.Name, "fix", "", "repair payloads by this fixer of the catalog: a repair agent, or jq")
	wordVar(f, &p.patchFile, "fix-patch", "", "repair payloads by the JSON Patch in this file")
	wordVar(f, &p.NoEffects, "no-effects", "", "why tasks may be repaired that have run before: what their runs did would be done again")
}

// fixer is what was asked for, nil for nothing.
func (p *fixFlags) fixer() (*replayer.Fixer, error) {
	if p.patchFile != "" {
		b, err := os.ReadFile(p.patchFile)
		if err != nil {
			return nil, fmt.Errorf("--fix-patch: %w", err)
		}
		var any json.RawMessage
		if err := json.Unmarshal(b, &any); err != nil {
			return nil, exit.Usage(fmt.Errorf("--fix-patch %s: %w", p.patchFile, placed(b, err)))
		}
		p.Patch = any
	}
	given := 0
	for _, s := range []string{p.Name, p.JQ, p.patchFile} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, exit.Usage(errors.New("--fix, --fix-jq, --fix-patch: a plan has one fixer"))
	case given == 1:
		return &p.Fixer, nil
	case p.NoEffects != "":
		return nil, exit.Usage(errors.New("--no-effects is about a repair: give --fix, --fix-jq or --fix-patch"))
	}
	return nil, nil
}

// placed adds line and column to a syntax error of JSON.
func placed(b []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	before := string(b[:min(max(syntax.Offset-1, 0), int64(len(b)))])
	return fmt.Errorf("line %d, column %d: %w", 1+strings.Count(before, "\n"), len(before)-strings.LastIndex(before, "\n"), err)
}

// fixerOf is a fixer in one line.
func fixerOf(f *replayer.Fixer) string {
	switch {
	case f == nil:
		return ""
	case f.Name != "":
		return f.Name + " of the catalog"
	case f.JQ != "":
		return "jq " + f.JQ
	}
	return "patch " + string(f.Patch)
}

func noEffectsOf(f *replayer.Fixer) string {
	if f == nil {
		return ""
	}
	return f.NoEffects
}

// showFixes prints what a fixer made of the first letters.
func showFixes(w io.Writer, r *replayer.Replay) {
	if r.Hidden {
		fmt.Fprintln(w, "what the fixer makes of payloads needs a token with the verb read-payload")
	}
	for _, f := range r.Fixes {
		id, _, _ := strings.Cut(f.Letter, "@")
		key := fmt.Sprintf("%s-r%d", id, f.Repair)
		if f.Replayed {
			fmt.Fprintf(w, "\n%s was replayed as %s:\n", output.Safe(f.Letter), output.Safe(key))
		} else {
			fmt.Fprintf(w, "\n%s would be replayed as %s:\n", output.Safe(f.Letter), output.Safe(key))
		}
		switch {
		case f.Before == nil && f.BeforeBase64 == nil && !f.Large:
			fmt.Fprintln(w, "  the original has left the index")
		default:
			for _, line := range strings.Split(strings.TrimSuffix(f.Diff, "\n"), "\n") {
				fmt.Fprintln(w, "  "+output.Block(line))
			}
		}
	}
}

// newFixJQ is the process that a replayer runs jq in, so that a program can do
// nothing to it.
func newFixJQ(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:    "fix-jq",
		Short:  "Run a plan's jq program over payloads; started by a replayer",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return jqchild.Serve(os.Stdin, c.out) },
	}
}

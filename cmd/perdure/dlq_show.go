package main

// `perdure dlq show`: a dead letter as the note of an incident: what, why, where,
// how often, what was tried, what to do next.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

func newDLQShow(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "One dead letter: why it died, what was tried, its payload, what to do next",
		Long:    "ID is a letter (main-1-42@0) or a task (main-1-42: its latest letter).",
		Example: "perdure dlq show main-1-42\nperdure dlq show main-1-42 -o json | jq .payload",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var l dlq.LetterView
			if err := cl.Get(cmd.Context(), apiclient.Path("dead-letters", args[0]), nil, &l); err != nil {
				return err
			}
			return c.printer().One(l, func(w io.Writer) { showLetter(w, &l, groupOf(cmd.Context(), cl, l.Group)) })
		},
	}
}

// groupOf says in a line how often a cause killed, and what people say of it: ""
// if that cannot be told, which is no reason not to show the letter.
func groupOf(ctx context.Context, cl *apiclient.Client, fingerprint string) string {
	var g dlq.Group
	if err := cl.Get(ctx, apiclient.Path("failure-groups", fingerprint), nil, &g); err != nil {
		return ""
	}
	parts := []string{fmt.Sprintf("%s, %d open, %s in the last hour", letters(int(g.Letters)), g.States["open"], lastHour(&g))}
	for _, s := range []string{inCare(&g.Care), g.Care.Note, g.Care.Runbook} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, "; ")
}

func showLetter(w io.Writer, l *dlq.LetterView, group string) {
	deadline, replays := "", ""
	if l.Deadline != nil {
		deadline = l.Deadline.Local().Format(time.DateTime)
	}
	if l.Replays > 0 {
		replays = strconv.Itoa(l.Replays)
	}
	output.Fields(w,
		[2]string{"letter", l.Letter}, [2]string{"task", l.TaskID}, [2]string{"kind", l.Kind}, [2]string{"queue", l.Queue},
		[2]string{"key", l.Key}, [2]string{"waits for", l.BlockedBy}, [2]string{"blocks", blocked(l)}, [2]string{"state", l.State}, [2]string{"resolved by", l.ResolvedBy}, [2]string{"reason", l.Reason},
		[2]string{"error", l.ErrorClass}, [2]string{"message", l.Message}, [2]string{"group", l.Group}, [2]string{"", group},
		[2]string{"died", l.DiedAt.Local().Format(time.DateTime)}, [2]string{"deadline", deadline}, [2]string{"release", l.Release},
		[2]string{"catalog", l.Catalog}, [2]string{"from", l.Origin}, [2]string{"on", l.DLQ}, [2]string{"replays", replays}, [2]string{"cut", l.Cuts}, [2]string{"next", next(l)})
	if len(l.Attempts) > 0 {
		fmt.Fprintln(w, "\ntried")
		showAttempts(w, l.Attempts)
	}
	showPast(w, l.Past)
	fmt.Fprintln(w)
	switch {
	case l.Hidden:
		fmt.Fprintln(w, "payload and headers need a token with the verb read-payload")
	case l.Tombstone:
		fmt.Fprintln(w, "payload  none: the record was a tombstone")
	case len(l.Payload) > 0:
		fmt.Fprintf(w, "payload\n%s\n", output.Block(indented(l.Payload)))
	default:
		fmt.Fprintf(w, "payload (%d bytes, not JSON)\n  %s\n", l.Size, output.Cut(string(l.PayloadBase64), 2000))
	}
}

// showPast writes what replays did with the task's letters.
func showPast(w io.Writer, list []dlq.PastReplay) {
	if len(list) > 0 {
		fmt.Fprintln(w, "\nreplayed before")
	}
	for _, p := range list {
		when, became := "not yet", p.Result
		if p.At != nil {
			when = p.At.Local().Format(time.DateTime)
		}
		if p.Outcome != "" {
			became += ", " + strings.ReplaceAll(p.Outcome, "_", " ")
		}
		fmt.Fprintf(w, "  %s  %s by %s: %s %s", when, output.Safe(p.Replay), output.Safe(p.Who), output.Safe(p.Letter), became)
		if p.Repair > 0 {
			fmt.Fprintf(w, ", repaired (-r%d)", p.Repair)
		}
		fmt.Fprintln(w, reason(p.Why, func(s string) string { return output.Cut(s, 200) }))
		if p.RepairDiff != "" {
			fmt.Fprintln(w, output.Block(strings.TrimSuffix(p.RepairDiff, "\n")))
		}
	}
}

// blocked says what waits until a letter is settled.
func blocked(l *dlq.LetterView) string {
	if !l.Stands() {
		return ""
	}
	switch l.Waiting {
	case 0:
		return "its key: later tasks of it wait until this letter is replayed and completed, or discarded; none has come yet"
	case 1:
		return "its key: 1 later task waits until this letter is replayed and completed, or discarded"
	}
	return fmt.Sprintf("its key: %d later tasks wait until this letter is replayed and completed, or discarded", l.Waiting)
}

// showAttempts writes a line or two for each attempt, of a panic with the
// innermost line of its stack.
func showAttempts(w io.Writer, raw json.RawMessage) {
	var list []dlq.Attempt
	if err := json.Unmarshal(raw, &list); err != nil { // written by another version
		fmt.Fprintf(w, "%s\n", output.Block(indented(raw)))
		return
	}
	for _, a := range list {
		if a.Cut > 0 {
			fmt.Fprintf(w, "  … %d attempts were left out here\n", a.Cut)
			continue
		}
		took := ""
		if !a.Start.IsZero() && a.End.After(a.Start) {
			took = ", " + a.End.Sub(a.Start).Round(time.Millisecond).String()
		}
		when := a.Start
		if when.IsZero() {
			when = a.End
		}
		fmt.Fprintf(w, "  %d  %s%s on %s: %s\n", a.N, when.Local().Format("01-02 15:04:05.000"), took, output.Safe(a.Worker), output.Cut(said(a.ErrorClass, a.Message), 300))
		if frame, _, _ := strings.Cut(strings.TrimSpace(a.Stack), "\n"); frame != "" {
			fmt.Fprintf(w, "     at %s\n", output.Cut(frame, 300))
		}
	}
}

// said is an error's class and message, the class once.
func said(class, message string) string {
	if message == "" || strings.HasPrefix(message, class) {
		return class + strings.TrimPrefix(message, class)
	}
	return class + ": " + message
}

// next is what to run for a letter, or why there is nothing to do.
func next(l *dlq.LetterView) string {
	if l.Reason == string(schemas.ReasonBlocked) && l.State == string(schemas.LetterHeld) {
		return "it goes on by itself once its key does: perdure dlq show " + output.Word(l.BlockedBy)
	}
	letter := output.Word(l.Letter)
	byID := "perdure replay start --id " + letter + " --yes --why …"
	switch schemas.LetterState(l.State) {
	case schemas.LetterReplaying:
		return "it is being replayed: perdure why " + output.Word(l.TaskID)
	case schemas.LetterResolved:
		switch l.ResolvedBy {
		case "replay":
			return "nothing here: it died again, and the newer letter counts: perdure dlq show " + output.Word(l.TaskID)
		case "cancelled":
			return "nothing: its task was cancelled"
		}
		return "nothing: its task is completed"
	case schemas.LetterDiscarded:
		return "nothing: a person or a policy discarded it"
	case schemas.LetterHeld:
		return byID + "; or perdure dlq release or discard " + letter
	}
	switch schemas.Reason(l.Reason) {
	case schemas.ReasonUndecodable:
		return "no worker can read it: enqueue its content as a new task, then perdure dlq discard " + letter + " --why …"
	case schemas.ReasonUnknown:
		return "find out whether its effect happened; if not: " + byID + "; if it did: perdure dlq discard " + letter + " --why …"
	case schemas.ReasonExpired:
		return "its deadline is over: enqueue its content as a new task, or perdure dlq discard " + letter + " --why …"
	}
	return "once the cause is mended: perdure replay plan --group " + output.Word(l.Group)
}

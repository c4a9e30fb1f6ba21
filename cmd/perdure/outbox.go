package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/relay"
)

func newOutbox(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "outbox",
		Short:   "What is accepted and not yet in Kafka, and who relays it",
		Example: "perdure outbox status",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "status",
		Short: "Backlog, schedule, parked queues, open transactions and the relay that holds the lease",
		Long: `Reads the database, so it works also where no relay runs. Where none does it
also says what a relay that is started now would halt with. Changes nothing.

An open transaction holds nobody else up: only its own tasks are not there before
it commits. While it lasts, old partitions of the outbox stay.`,
		Example: "perdure outbox status\nperdure outbox status -o json | jq .open_transactions",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			o, err := app.Outbox(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			held, total, err := app.HeldTasks(cmd.Context(), cfg, heldListed)
			if err != nil {
				return err
			}
			var halted error
			if !o.Alive && len(cfg.KafkaBrokers) > 0 {
				halted = app.ExamineRelay(cmd.Context(), cfg)
			}
			return c.printer().One(outboxView(&o, halted, held, total), func(w io.Writer) { showOutbox(w, &o, halted); showHeld(w, held, total) })
		},
	})
	cmd.AddCommand(newOutboxReset(c), newOutboxRelease(c), newOutboxDiscard(c))
	return cmd
}

// outboxView is the JSON of an outbox; absent times are left out.
func outboxView(o *relay.Outbox, halted error, held []relay.Held, total int64) any {
	var stop *relay.HaltError
	text := ""
	if errors.As(halted, &stop) {
		text = stop.Error()
	}
	return struct {
		Owner         string              `json:"owner,omitempty"`
		Alive         bool                `json:"alive"`
		Fence         int64               `json:"fence"`
		Until         time.Time           `json:"lease_until,omitzero"`
		Halted        string              `json:"halted,omitempty"`
		MovedAt       time.Time           `json:"moved_at,omitzero"`
		Backlog       int64               `json:"backlog"`
		OldestSeconds float64             `json:"oldest_seconds"`
		Scheduled     int64               `json:"scheduled"`
		NextDue       time.Time           `json:"next_due,omitzero"`
		Parked        map[string]int64    `json:"parked"`
		Whys          map[string]string   `json:"parked_why"`
		Open          []relay.Transaction `json:"open_transactions"`
		Partitions    int64               `json:"partitions"`
		Bytes         int64               `json:"bytes"`
		Held          int64               `json:"held"`
		HeldTasks     []relay.Held        `json:"held_tasks"` // heldListed at most
	}{o.Owner, o.Alive, o.Fence, o.Until, text, o.MovedAt, o.Backlog, o.Oldest, o.Scheduled, o.NextDue, o.Parked, o.Whys,
		append([]relay.Transaction{}, o.Open...), o.Leaves, o.Bytes, total, append([]relay.Held{}, held...)}
}

// heldListed is how many held tasks a status shows.
const heldListed = 1000

// showHeld lists what an outbox reset held.
func showHeld(w io.Writer, held []relay.Held, total int64) {
	if total == 0 {
		return
	}
	fmt.Fprintf(w, "held          %d tasks that Kafka may have already: `perdure outbox release` or `discard` each\n", total)
	for i := range held {
		h := &held[i]
		fmt.Fprintf(w, "              %d  %s  %s of queue %s, accepted %s\n", h.Seq, output.Safe(h.ID), output.Safe(h.Kind), output.Safe(h.Queue), localTime(&h.Created))
	}
	if n := total - int64(len(held)); n > 0 {
		fmt.Fprintf(w, "              and %d more\n", n)
	}
}

func showOutbox(w io.Writer, o *relay.Outbox, halted error) {
	owner := o.Owner
	switch {
	case owner == "":
		owner = "nobody has relayed yet: start `perdure relay`"
	case !o.Alive:
		owner += fmt.Sprintf(" (its lease has run out at %s: start `perdure relay`)", localTime(&o.Until))
	default:
		owner += fmt.Sprintf(", fence %d", o.Fence)
	}
	var stop *relay.HaltError
	stops, unsure := "", ""
	if errors.As(halted, &stop) {
		stops = stop.Error()
	} else if halted != nil {
		unsure = halted.Error()
	}
	backlog := atLeast(o.Backlog)
	if o.Backlog > 0 {
		backlog += fmt.Sprintf(", the oldest for %s", time.Duration(o.Oldest*float64(time.Second)).Round(time.Millisecond))
	}
	moved, due := "never", ""
	if !o.MovedAt.IsZero() {
		moved = localTime(&o.MovedAt)
	}
	if !o.NextDue.IsZero() {
		due = ", the next due at " + localTime(&o.NextDue)
	}
	output.Fields(w, [2]string{"relay", owner}, [2]string{"would halt", stops}, [2]string{"not examined", unsure},
		[2]string{"backlog", backlog}, [2]string{"cursor moved", moved}, [2]string{"scheduled", atLeast(o.Scheduled) + due},
		[2]string{"transactions", openLine(o)}, [2]string{"partitions", fmt.Sprintf("%d, %s", o.Leaves, decor.SizeB1024(o.Bytes))})
	for _, q := range slices.Sorted(maps.Keys(o.Parked)) {
		fmt.Fprintf(w, "parked        %d tasks of queue %s: %s\n", o.Parked[q], output.Safe(q), output.Safe(o.Whys[q]))
	}
}

// atLeast is a count that ends at relay.BacklogLimit.
func atLeast(n int64) string {
	if n >= relay.BacklogLimit {
		return fmt.Sprintf("at least %d", n)
	}
	return fmt.Sprint(n)
}

// openLine tells of the oldest transaction in progress.
func openLine(o *relay.Outbox) string {
	if len(o.Open) == 0 {
		return "none in progress"
	}
	t := &o.Open[0]
	line := fmt.Sprintf("%d in progress, the oldest of %s", len(o.Open), t.Name())
	if t.Since.IsZero() {
		line += ", since when this role may not see (grant it pg_read_all_stats)"
	} else {
		line += fmt.Sprintf(" for %s, since %s", o.Now.Sub(t.Since).Round(time.Second), localTime(&t.Since))
	}
	if t.State != "" {
		line += ", " + t.State
	}
	if t.Writes {
		line += "; it has written to the outbox"
	}
	return line
}

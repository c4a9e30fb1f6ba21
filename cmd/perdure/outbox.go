package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

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
		Short: "Backlog, schedule, parked queues and the relay that holds the lease",
		Long:  "Reads the database, so it works also where no relay runs. Changes nothing.",
		Args:  cobra.NoArgs,
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
			return c.printer().One(outboxView(&o, held, total), func(w io.Writer) { showOutbox(w, &o); showHeld(w, held, total) })
		},
	})
	cmd.AddCommand(newOutboxReset(c), newOutboxRelease(c), newOutboxDiscard(c))
	return cmd
}

// outboxView is the JSON of an outbox; absent times are left out.
func outboxView(o *relay.Outbox, held []relay.Held, total int64) any {
	return struct {
		Owner         string           `json:"owner,omitempty"`
		Alive         bool             `json:"alive"`
		MovedAt       time.Time        `json:"moved_at,omitzero"`
		Backlog       int64            `json:"backlog"`
		OldestSeconds float64          `json:"oldest_seconds"`
		Scheduled     int64            `json:"scheduled"`
		NextDue       time.Time        `json:"next_due,omitzero"`
		Parked        map[string]int64 `json:"parked"`
		Held          int64            `json:"held"`
		HeldTasks     []relay.Held     `json:"held_tasks"` // heldListed at most
	}{o.Owner, o.Alive, o.MovedAt, o.Backlog, o.Oldest, o.Scheduled, o.NextDue, o.Parked, total, append([]relay.Held{}, held...)}
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

func showOutbox(w io.Writer, o *relay.Outbox) {
	owner := o.Owner
	switch {
	case owner == "":
		owner = "nobody has relayed yet: start `perdure relay`"
	case !o.Alive:
		owner += " (its lease has run out: start `perdure relay`)"
	}
	backlog := fmt.Sprint(o.Backlog)
	if o.Backlog >= relay.BacklogLimit {
		backlog = "at least " + backlog
	}
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
	output.Fields(w, [2]string{"relay", owner}, [2]string{"backlog", backlog}, [2]string{"cursor moved", moved}, [2]string{"scheduled", fmt.Sprint(o.Scheduled) + due})
	for _, q := range slices.Sorted(maps.Keys(o.Parked)) {
		fmt.Fprintf(w, "parked        %d tasks of queue %s: its topic takes nothing\n", o.Parked[q], output.Safe(q))
	}
}

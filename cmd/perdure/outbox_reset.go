package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/relay"
)

func newOutboxReset(c *cli) *cobra.Command {
	var opt relay.ResetOptions
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset --dry-run | --yes",
		Short: "Let a restored, promoted or reloaded database be relayed again",
		Long: `For a relay that halted because its database was replaced. Takes the cursor as
that of this database, moves the sequence past the highest id that Kafka has, and
raises the generation, so that no id is used twice. Tasks that Kafka may have
already are held: see outbox status, release and discard. Stop every relay of the
source first. Producers wait for a moment.`,
		Example: "perdure outbox reset --dry-run\nperdure outbox reset --yes\nperdure outbox reset --upgraded --yes    # after pg_upgrade: nothing was lost",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, cat, err := c.environment()
			if err != nil {
				return err
			}
			if !yes && !opt.DryRun {
				return exit.Refusal(errors.New("outbox reset changes which tasks are relayed: see --dry-run first, then say --yes to mean it"))
			}
			rep, err := app.ResetOutbox(cmd.Context(), cfg, cat, opt)
			var no *relay.RefusedError
			var halt *relay.HaltError
			if errors.As(err, &no) || errors.As(err, &halt) {
				return exit.Refusal(err)
			}
			if rep == nil {
				return err
			}
			return errors.Join(c.printer().One(rep, func(w io.Writer) { showReset(w, rep) }), err)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opt.DryRun, "dry-run", false, "say what would be done; change nothing")
	f.BoolVar(&opt.Upgraded, "upgraded", false, "this is the same data after pg_upgrade: hold nothing")
	f.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func showReset(w io.Writer, r *relay.ResetReport) {
	for _, found := range r.Found {
		fmt.Fprintln(w, "found      ", output.Safe(found))
	}
	output.Fields(w,
		[2]string{"generation", fmt.Sprintf("%d → %d", r.Generation[0], r.Generation[1])},
		[2]string{"sequence", fmt.Sprintf("%d → %d, Kafka has ids up to %d", r.Sequence[0], r.Sequence[1], r.KafkaSeq)},
		[2]string{"carried over", fmt.Sprintf("%d tasks that Kafka cannot have: they leave by themselves", r.Sent)})
	held := int64(0)
	for _, q := range slices.Sorted(maps.Keys(r.Held)) {
		fmt.Fprintf(w, "held        %d tasks of queue %s that Kafka may have\n", r.Held[q], output.Safe(q))
		held += r.Held[q]
	}
	switch {
	case r.DryRun:
		fmt.Fprintln(w, "dry run: nothing was changed; `perdure outbox reset --yes` does it")
	case held > 0:
		fmt.Fprintln(w, "done: start `perdure relay`; `perdure outbox status` lists the held tasks")
	default:
		fmt.Fprintln(w, "done: start `perdure relay`")
	}
}

func newOutboxRelease(c *cli) *cobra.Command {
	var same, anew, yes bool
	cmd := &cobra.Command{
		Use:   "release SEQ... --same-id | --new-id",
		Short: "Send held tasks after all",
		Long: `With --same-id a task that Kafka has already is recognised and runs once; choose
it for tasks that are older than the backup or the failover. With --new-id it
surely runs, a second time if Kafka had it; choose it where the id may stand for
another task in Kafka (perdure tasks get ID shows which).`,
		Example: "perdure outbox release 1004 1005 --same-id --yes",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, seqs, err := c.heldArgs(args)
			if err != nil {
				return err
			}
			if same == anew {
				return exit.Usage(errors.New("outbox release: say either --same-id or --new-id"))
			}
			if !yes {
				return exit.Refusal(fmt.Errorf("outbox release sends %d tasks that Kafka may have: say --yes to mean it", len(seqs)))
			}
			as, err := app.ReleaseHeld(cmd.Context(), cfg, seqs, anew)
			return errors.Join(c.printer().One(map[string]any{"released": seqs[:len(as)], "as": as}, func(w io.Writer) {
				for i, n := range as {
					fmt.Fprintf(w, "released %d as %d: it leaves within a minute\n", seqs[i], n)
				}
			}), err)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&same, "same-id", false, "under its own id")
	f.BoolVar(&anew, "new-id", false, "under a new id")
	f.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

func newOutboxDiscard(c *cli) *cobra.Command {
	var yes bool
	var why string
	cmd := &cobra.Command{
		Use:     "discard SEQ...",
		Short:   "Drop held tasks that Kafka has, or that nobody wants",
		Example: "perdure outbox discard 1004 --why 'completed before the failover' --yes",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, seqs, err := c.heldArgs(args)
			if err != nil {
				return err
			}
			if !yes {
				return exit.Refusal(fmt.Errorf("outbox discard drops %d tasks for good: say --yes to mean it", len(seqs)))
			}
			if err := app.DiscardHeld(cmd.Context(), cfg, seqs, why); err != nil {
				return err
			}
			return c.printer().One(map[string]any{"discarded": seqs}, func(w io.Writer) { fmt.Fprintf(w, "discarded %d tasks\n", len(seqs)) })
		},
	}
	f := cmd.Flags()
	whyVar(f, &why)
	f.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// heldArgs reads the environment and the seqs of held tasks.
func (c *cli) heldArgs(args []string) (cfg config.Config, seqs []int64, err error) {
	for _, a := range args {
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil {
			return cfg, nil, exit.Usage(fmt.Errorf("%q is no seq: see `perdure outbox status`", a))
		}
		seqs = append(seqs, n)
	}
	cfg, err = c.config()
	return cfg, seqs, err
}

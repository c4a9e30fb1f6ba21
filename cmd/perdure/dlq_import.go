package main

// `perdure dlq import`: any team's dead letters, back to where they came from.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/dlq/imports"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/internal/service"
)

const importLong = `Reads a dead-letter topic of any system, up to where it ends now, and sends each record
back to the topic that it came from: key, value and headers as they were, without those
that its death added. Every consumer group of that topic reads it again.

A letter is sent once: what was sent is remembered in Postgres, by cluster, topic,
partition and offset. Run it again for letters that came since, or after a kill: it goes on
where it was. A record that was under way at a kill is looked for at its destination.

Look first with --dry-run: where letters would go, and which are refused and why. Then a
few (--limit 10 --yes), then the rest; letters that died again are counted.`

func newDLQImport(c *cli) *cobra.Command {
	var f foreignTopic
	var o imports.Order
	var yes bool
	limit := 0
	cmd := &cobra.Command{
		Use:   "import --topic TOPIC --dry-run | --yes --why TEXT",
		Short: "Send another system's dead letters back to the topics that they came from",
		Long:  importLong,
		Example: `perdure dlq groups --topic orders-dlt
perdure dlq import --topic orders-dlt --dry-run
perdure dlq import --topic orders-dlt --group fp2:50ab34a0ea8278d2 --limit 10 --why "the shop is back" --yes
perdure dlq import --topic orders-dlt --to orders-again --rate 50 --why "the shop is back" --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.topic == "":
				return exit.Usage(errors.New("say --topic: which topic of dead letters"))
			case o.Rate != 0 && !(o.Rate >= 0.001 && o.Rate <= 1e6): // not NaN either
				return exit.Usage(errors.New("--rate is letters a second, from 0.001 to 1000000; 0 = as fast as it can"))
			case yes && o.DryRun:
				return exit.Usage(errors.New("say either --dry-run or --yes"))
			case !yes && !o.DryRun:
				return exit.Refusal(errors.New("an import sends records to other systems' topics: look with --dry-run, then say --yes and --why"))
			case yes && o.Why == "":
				return exit.Usage(errors.New("say --why: it is written down with your name"))
			}
			cfg, err := f.config(c)
			if err != nil {
				return err
			}
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			o.Topic, o.Limit, o.Passed = f.topic, int64(limit), &foreign.Progress{}
			if f.since > 0 {
				o.Since = time.Now().Add(-f.since)
			}
			finish := func() {}
			o.Begun = func(x foreign.Extent) {
				finish = c.bar(x.Offsets, o.Passed.Offsets.Load, func() string { return fmt.Sprintf("%d records", o.Passed.Records.Load()) })
			}
			o.Notice = func(s string) { fmt.Fprintln(c.errOut, output.Safe(s)) }
			rep, err := app.Import(ctx, cfg, o)
			finish()
			if errors.Is(err, imports.ErrBusy) || errors.Is(err, imports.ErrDestination) || errors.Is(err, imports.ErrTopicID) {
				return exit.Refusal(err)
			}
			if rep == nil || err != nil && rep.Letters == 0 && rep.Settled == (imports.Settled{}) {
				return f.explain(err)
			}
			printed := c.printer().One(rep, func(w io.Writer) { showImport(w, rep) })
			switch {
			case errors.Is(err, context.Canceled):
				err = fmt.Errorf("stopped after %s: the same command goes on", letters(int(rep.Sent)))
			case err == nil:
				err = nothingImported(rep)
			}
			return errors.Join(printed, f.explain(err))
		},
	}
	fs := cmd.Flags()
	f.flags(cmd)
	agoVar(fs, &f.since, "since", "only letters at most this old, such as 24h")
	wordVar(fs, &o.Group, "group", "", "only letters of this group; see perdure dlq groups --topic")
	wordsVar(fs, &o.Origins, "origin", "only letters that came from these topics, comma-separated")
	wordVar(fs, &o.To, "to", "", "send them all to this topic, wherever they came from")
	limitVar(fs, &limit, "limit", "send at most this many (default: all)")
	fs.Float64Var(&o.Rate, "rate", 0, "letters a second; 0 = as fast as it can")
	fs.BoolVar(&o.Again, "unknown", false, "send also letters of which nobody can tell any more whether they were sent")
	wordVar(fs, &o.Why, "why", "", "for the audit; must be given with --yes")
	wordVar(fs, &o.Why, "reason", "", "the same as --why")
	fs.BoolVar(&o.DryRun, "dry-run", false, "look at every letter and say what would happen; send nothing")
	fs.BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// nothingImported is the error of an import that sent nothing, unless all was sent before.
func nothingImported(r *imports.Report) error {
	switch {
	case r.Sent+r.WouldSend+r.Before > 0:
		return nil
	case r.Letters == 0:
		return fmt.Errorf("no letter matches, so nothing is sent\n  next: perdure dlq groups --topic %s", output.Word(r.Topic))
	case len(r.Refused) > 0:
		x := r.Refused[0]
		return exit.Refusal(fmt.Errorf("nothing is sent: %s refused: %s: %s", letters(int(x.Letters)), x.Why, x.Detail))
	}
	return errors.New("nothing is sent: the letters are in doubt")
}

func showImport(w io.Writer, r *imports.Report) {
	n := func(i int64) string {
		if i == 0 {
			return ""
		}
		return strconv.FormatInt(i, 10)
	}
	settled := ""
	if s := r.Settled; s != (imports.Settled{}) {
		settled = fmt.Sprintf("of imports that were killed: %d had been sent, %d had not, of %d nobody can tell", s.Found, s.NotSent, s.Unknown)
	}
	output.Fields(w, [2]string{"import", r.Import}, [2]string{"topic", r.Topic}, [2]string{"letters", strconv.FormatInt(r.Letters, 10)},
		[2]string{"settled", settled}, [2]string{"would send", n(r.WouldSend)}, [2]string{"sent", n(r.Sent)})
	for _, d := range r.To {
		fmt.Fprintf(w, "  %d to %s\n", d.Letters, output.Safe(d.Topic))
	}
	again := ""
	if r.Again > 0 {
		again = fmt.Sprintf("%d, after an import had sent them", r.Again)
	}
	output.Fields(w, [2]string{"sent before", n(r.Before)}, [2]string{"died again", again}, [2]string{"in doubt", n(r.InDoubt)})
	for _, x := range r.Refused {
		fmt.Fprintf(w, "refused     %d: %s: %s (%s)\n", x.Letters, x.Why, output.Safe(x.Detail), output.Safe(x.First))
	}
	if r.Undecided > 0 {
		fmt.Fprintf(w, "%d offsets lie behind a transaction that is still open, and were not read\n", r.Undecided)
	}
	if r.More {
		fmt.Fprintln(w, "the limit is reached: there may be more")
	}
	if r.WouldSend > 0 {
		fmt.Fprintln(w, "dry run: nothing was sent; with --yes and --why it is")
	}
}

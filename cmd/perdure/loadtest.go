package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app/stage"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/service"
	load "github.com/perdure/perdure/loadtest/run"
)

func newLoadtest(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "loadtest",
		Short: "Load Perdure and see how fast it is and what it costs",
	}
	cmd.AddCommand(newLoadtestRun(c))
	return cmd
}

func newLoadtestRun(c *cli) *cobra.Command {
	opts, mix := load.Defaults(), load.Defaults().Mix.String()
	var files stage.Files
	cmd := &cobra.Command{
		Use:   "run",
		Short: "One load test: rate, latencies, CPU of all processes per task",
		Long: `Runs every role and a worker in this process, offers tasks, and tells how fast they
went, how long each took from when it was due to when its handler began, and what
all processes that are on this machine (this one, Postgres with its backends,
Kafka, Redis) used for it.

  closed  a backlog of --tasks, or --in-flight of them at a time
  open    --rate tasks a second for --duration, sent when they are due; a system
          that stalls its callers does not get its stalls left out

Servers that are named (PERDURE_POSTGRES_URL, PERDURE_REDIS_ADDRS,
PERDURE_KAFKA_BROKERS) are used, with a database, topics and keys of the test's
own, which it removes again; the others are embedded, and their figures are a
laptop's.`,
		Example: `perdure loadtest run --tasks 50000 --html report.html
perdure loadtest run --loop open --rate 2000 --duration 30s --baseline
perdure loadtest run --mix noop=8,sleep=1,http=1 --cpuprofile cpu.pprof -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Mix, err = load.ParseMix(mix); err != nil {
				return exit.Usage(err)
			}
			if err := opts.CheckGiven(cmd.Flags().Changed); err != nil {
				return exit.Usage(err)
			}
			cfg, err := c.checked(config.LoadEnvironment())
			if err != nil {
				return err
			}
			if service.IsTerminal(c.errOut) {
				show, done := load.Line(c.errOut)
				defer done()
				opts.Progress = show
			}
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			rep, err := stage.Load(ctx, stage.LoadOptions{Config: cfg, Version: buildVersion(), Load: opts, Files: files})
			if err != nil {
				return err
			}
			if err := c.printer().One(rep, func(w io.Writer) { rep.Text(w) }); err != nil {
				return err
			}
			return rep.Err()
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Loop, "loop", opts.Loop, "closed or open")
	f.IntVar(&opts.Tasks, "tasks", opts.Tasks, "closed: how many tasks")
	f.IntVar(&opts.InFlight, "in-flight", opts.InFlight, "closed: tasks sent and not begun, at most; 0 = all")
	f.Float64Var(&opts.Rate, "rate", opts.Rate, "open: tasks a second")
	f.DurationVar(&opts.Duration, "duration", opts.Duration, "open: for how long")
	f.DurationVar(&opts.Linger, "linger", opts.Linger, "open: how long a producer gathers what is due before it sends it")
	f.BoolVar(&opts.Baseline, "baseline", opts.Baseline, "open: measure Kafka alone at the same rate, half before and half after, and under the load by a few records a second")
	f.IntVar(&opts.Payload, "payload", opts.Payload, "bytes of a task's payload")
	f.StringVar(&opts.Entropy, "entropy", opts.Entropy, "of the payload: random or text (compressible)")
	f.StringVar(&mix, "mix", mix, "kinds and their weights: noop, sleep, http")
	f.DurationVar(&opts.Sleep, "sleep", opts.Sleep, "how long a sleep task takes")
	f.IntVar(&opts.Producers, "producers", opts.Producers, "that send at once")
	f.IntVar(&opts.Batch, "batch", opts.Batch, "tasks in one transaction, at most")
	f.IntVar(&opts.Concurrency, "concurrency", opts.Concurrency, "of the worker")
	f.IntVar(&opts.Partitions, "partitions", opts.Partitions, "of the queue")
	f.IntVar(&opts.Warmup, "warmup", opts.Warmup, "tasks before those that are measured")
	f.DurationVar(&opts.Patience, "patience", opts.Patience, "without any progress, until it gives up")
	f.StringVar(&files.Result, "result", "", "write the result as JSON to this file")
	f.StringVar(&files.HTML, "html", "", "write a report with charts to this file")
	f.StringVar(&files.CPUProfile, "cpuprofile", "", "write a CPU profile of this process (pprof) to this file")
	return cmd
}

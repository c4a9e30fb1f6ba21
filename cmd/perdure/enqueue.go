package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dispatcher/enqueuefile"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/internal/service"
)

func newEnqueue(c *cli) *cobra.Command {
	var file, batch, rejects string
	cmd := &cobra.Command{
		Use:   "enqueue -f FILE",
		Short: "Enqueue a file of tasks, one JSON object a line",
		Long: `Sends each line to the API as one task:

  {"kind": "refund.issue", "payload": {…}}

and optionally payload_base64 with content_type, queue, key, idempotency_key,
run_at, deadline, headers. Lines that cannot be accepted are counted and written
with their text and problem to FILE.rejects.ndjson; the rest goes on.

Interrupted? Run it again: every line has an idempotency key made from the batch
(the file's path) and its text, so nothing is enqueued twice. Exits 1 if a line
was rejected.`,
		Example: `perdure enqueue -f tasks.ndjson
zcat tasks.ndjson.gz | perdure enqueue -f - --batch tasks-2026-11-23`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return exit.Usage(errors.New("say which file: -f FILE, or -f - for stdin"))
			}
			cfg, err := c.config()
			if err != nil {
				return err
			}
			in, size, err := openLines(file)
			if err != nil {
				return exit.Usage(err)
			}
			defer in.Close() //nolint:errcheck // only read from
			if rejects == "" {
				rejects = "stdin.rejects.ndjson"
				if file != "-" {
					rejects = file + ".rejects.ndjson"
				}
			}
			refused, err := enqueuefile.NewRejectsFile(rejects)
			if err != nil {
				return fmt.Errorf("rejects file: %w", err)
			}
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			progress, finish := c.progress(size)
			stats, err := enqueuefile.Run(ctx, enqueuefile.Options{
				Reader: in, Name: file, Batch: batch, URL: cfg.APIURL, Token: cfg.APIToken, Rejects: refused, Progress: progress,
				Waiting: func(why error, left time.Duration) {
					fmt.Fprintf(c.errOut, "perdure: waits for the API and tries again for %s: %s\n", left.Round(time.Second), output.Safe(why.Error()))
				},
			})
			finish()
			if err = errors.Join(err, refused.Close()); err != nil && stats.Lines > 0 {
				err = fmt.Errorf("%w\nrun the same command again to take up the rest", err)
			}
			if perr := c.printer().One(stats, func(w io.Writer) { showEnqueued(w, stats, refused.Path()) }); err == nil {
				err = perr
			}
			if err == nil && stats.Rejected > 0 {
				err = fmt.Errorf("%d lines were rejected: see %s", stats.Rejected, refused.Path())
			}
			return err
		},
	}
	f := cmd.Flags()
	wordVar(f, &file, "file", "f", "tasks, one JSON object a line; - reads stdin")
	wordVar(f, &batch, "batch", "", "scope of the lines' idempotency keys; default the file's path")
	wordVar(f, &rejects, "rejects", "", "where rejected lines go; default FILE.rejects.ndjson")
	return cmd
}

// openLines opens the file and tells its size, 0 where that is not known.
func openLines(file string) (io.ReadCloser, int64, error) {
	if file == "-" {
		return io.NopCloser(os.Stdin), 0, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if st.IsDir() {
		return nil, 0, errors.Join(fmt.Errorf("%s is a folder", file), f.Close())
	}
	return f, st.Size(), nil
}

func showEnqueued(w io.Writer, s enqueuefile.Stats, rejects string) {
	fmt.Fprintf(w, "%d lines in %s (%.0f a second): %d accepted", s.Lines, s.Elapsed.Round(time.Millisecond), s.Rate(), s.Accepted)
	if s.Duplicate > 0 {
		fmt.Fprintf(w, ", %d held by another task's unique key", s.Duplicate)
	}
	if s.Replayed > 0 {
		fmt.Fprintf(w, ", %d accepted before", s.Replayed)
	}
	if s.Rejected > 0 {
		fmt.Fprintf(w, ", %d rejected (%s)", s.Rejected, output.Safe(rejects))
	}
	fmt.Fprintln(w)
}

package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/output"
)

func newTasks(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tasks",
		Short:   "Where a task is, and everything that happened to it",
		Example: "perdure tasks get main-1-42\nperdure tasks get main-1-42 --wait 30s",
	}
	var wait time.Duration
	get := &cobra.Command{
		Use:     "get ID",
		Short:   "State and timeline of a task",
		Example: "perdure tasks get main-1-42\nperdure tasks get main-1-42 -o json | jq -r .state",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			q := url.Values{}
			if wait > 0 {
				q.Set("wait", wait.String())
			}
			var v dispatcher.TaskView
			if err := cl.Get(cmd.Context(), apiclient.Path("tasks", args[0]), q, &v); err != nil {
				return err
			}
			return c.printer().One(v, func(w io.Writer) { showTask(w, &v) })
		},
	}
	get.Flags().DurationVar(&wait, "wait", 0, "answer when the task is settled, or after this long (at most 60s)")
	cancel := &cobra.Command{
		Use:     "cancel ID",
		Short:   "Cancel a task that is not settled",
		Long:    "Prints cancelled: it will not run (again); or cancelling: it runs now, and its worker ends it unless it completes first.",
		Example: "perdure tasks cancel main-1-42\nperdure tasks cancel main-1-42 && perdure tasks get main-1-42 --wait 10s",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var a dispatcher.CancelAnswer
			if err := cl.Post(cmd.Context(), apiclient.Path("tasks", args[0], "cancel"), nil, &a); err != nil {
				return err
			}
			return c.printer().One(a, func(w io.Writer) {
				output.Fields(w, [2]string{"task", a.ID}, [2]string{"state", a.State})
			})
		},
	}
	cmd.AddCommand(get, cancel)
	return cmd
}

func showTask(w io.Writer, v *dispatcher.TaskView) {
	state := string(v.State)
	if v.Waits != "" {
		state += " for " + string(v.Waits)
	}
	if v.Inferred {
		state += " (inferred: Redis no longer knows it)"
	}
	attempt := ""
	if v.Attempt > 0 {
		attempt = strconv.Itoa(v.Attempt)
	}
	next := ""
	if v.Letter != "" {
		next = "perdure dlq show " + output.Word(v.Letter)
	}
	heard, progress := "", ""
	if v.Progress != nil {
		heard, progress = localTime(&v.Progress.At), output.Safe(string(v.Progress.Value))
	}
	output.Fields(w,
		[2]string{"task", v.ID}, [2]string{"state", state}, [2]string{"kind", v.Kind}, [2]string{"queue", v.Queue}, [2]string{"key", v.Key}, [2]string{"unique key", v.UniqueKey},
		[2]string{"attempt", attempt}, [2]string{"worker", v.Worker}, [2]string{"heard of", heard}, [2]string{"progress", progress}, [2]string{"not before", localTime(v.Due)}, [2]string{"deadline", localTime(v.Deadline)},
		[2]string{"reason", string(v.Reason)}, [2]string{"letter", v.Letter}, [2]string{"next", next})
	if len(v.Timeline) > 0 {
		fmt.Fprintln(w)
	}
	showTimeline(w, v.Timeline)
	if len(v.Result) > 0 {
		fmt.Fprintf(w, "\nresult\n%s\n", output.Block(indented(v.Result)))
	}
}

// alike is how many hops in a row that say the same are all shown. A task that waits at
// an open breaker has one for each probe.
const alike = 4

// showTimeline prints a line a hop; of many that say the same the first and the last.
func showTimeline(w io.Writer, hops []dispatcher.Hop) {
	const format = "01-02 15:04:05.000" // it may take days
	line := func(h *dispatcher.Hop) {
		at := strings.Repeat(" ", len(format))
		if !h.At.IsZero() {
			at = h.At.Local().Format(format)
		}
		fmt.Fprintf(w, "  %s  %-10s %s\n", at, output.Safe(h.What), output.Safe(hopDetail(h)))
	}
	for i := 0; i < len(hops); {
		n := 1
		for i+n < len(hops) && hops[i+n].What == hops[i].What && hopDetail(&hops[i+n]) == hopDetail(&hops[i]) {
			n++
		}
		if n <= alike {
			line(&hops[i])
			i++
			continue
		}
		line(&hops[i])
		fmt.Fprintf(w, "  %s  %-10s … %d more times\n", strings.Repeat(" ", len(format)), output.Safe(hops[i].What), n-2)
		line(&hops[i+n-1])
		i += n
	}
}

// hopDetail is what else is known of a hop, in one line.
func hopDetail(h *dispatcher.Hop) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if h.Topic != "" && h.Partition != nil && h.Offset != nil {
		add("%s/%d/%d", h.Topic, *h.Partition, *h.Offset)
	} else if h.Topic != "" {
		add("%s", h.Topic)
	}
	if h.Epoch > 0 {
		add("epoch %d", h.Epoch)
	}
	if h.Attempt > 0 {
		add("attempt %d", h.Attempt)
	}
	if h.Worker != "" {
		add("on %s", h.Worker)
	}
	if h.ErrorClass != "" || h.Message != "" {
		add("%s: %s", h.ErrorClass, h.Message)
	}
	if h.Detail != "" {
		add("%s", h.Detail)
	}
	if h.Until != nil {
		add("until %s", localTime(h.Until))
	}
	if h.Letter != "" {
		add("letter %s", h.Letter)
	}
	if h.Replay != "" {
		add("by %s", h.Replay)
	}
	return strings.Join(parts, ", ")
}

func localTime(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05.000")
}

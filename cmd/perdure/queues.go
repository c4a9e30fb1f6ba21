package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/output"
)

func newQueues(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "queues",
		Short:   "What waits on each queue, and who works on it",
		Example: "perdure queues ls",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List the queues with backlog, age and workers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.api()
			if err != nil {
				return err
			}
			defer cl.Close()
			var answer struct {
				Queues []dispatcher.QueueView `json:"queues"`
			}
			if err := cl.Get(cmd.Context(), "/v1/queues", nil, &answer); err != nil {
				return err
			}
			return output.Table(c.printer(), answer.Queues, "the catalog has no queues", []string{"QUEUE", "PARTITIONS", "BACKLOG", "OLDEST", "WORK LEFT", "WORKERS", "DESIRED"},
				func(q dispatcher.QueueView) []string {
					return []string{q.Queue, fmt.Sprint(q.Partitions), fmt.Sprint(q.BacklogTasks), seconds(q.OldestSeconds), seconds(q.BacklogSeconds), fmt.Sprint(q.Running), fmt.Sprint(q.DesiredWorkers)}
				})
		},
	})
	return cmd
}

func seconds(s float64) string {
	return (time.Duration(s * float64(time.Second))).Round(100 * time.Millisecond).String()
}

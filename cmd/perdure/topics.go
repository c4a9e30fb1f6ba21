package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/output"
)

func newTopics(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "topics",
		Short:   "Compare Kafka's topics with the catalog",
		Example: "perdure topics plan",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "plan",
		Short: "List what differs; changes nothing",
		Long: `Lists every topic that the catalog asks for and Kafka does not have as asked.
Roles that start make right what is marked yes (PERDURE_KAFKA_TOPICS=create).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, cat, err := c.environment()
			if err != nil {
				return err
			}
			changes, err := app.PlanTopics(cmd.Context(), cfg, cat)
			if err != nil {
				return err
			}
			return output.Table(c.printer(), changes, "the topics are as the catalog asks", []string{"TOPIC", "BY ITSELF", "DIFFERENCE"},
				func(ch kafka.Change) []string {
					auto := "no"
					if ch.Auto {
						auto = "yes"
					}
					return []string{ch.Topic, auto, ch.Message}
				})
		},
	})
	return cmd
}

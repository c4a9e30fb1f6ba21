package main

import (
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/output"
)

func newConfig(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "Every variable: value, default, meaning",
		Long: `Prints every environment variable that Perdure reads, with its value (secrets
masked), where the value comes from, its default and its meaning. Each secret can
also be given as a file: PERDURE_REDIS_PASSWORD_FILE=/run/secrets/redis.`,
		Example: "perdure config\nperdure config -o json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			return output.Table(c.printer(), cfg.Describe(), "", []string{"VARIABLE", "VALUE", "FROM", "DEFAULT", "MEANING"},
				func(v config.Variable) []string {
					return []string{v.Name, v.Value, string(v.Origin), v.Default, v.Meaning}
				})
		},
	}
}

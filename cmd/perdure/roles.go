package main

// What the four role commands share.

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/service"
)

// env is what a role is given.
func (c *cli) env(cfg config.Config) app.Env {
	env := app.Env{Config: cfg, Version: buildVersion(), Out: c.out, ErrOut: c.errOut}
	if self, err := os.Executable(); err == nil { // else plans with a jq program are refused, and say so
		env.JQ = []string{self, "fix-jq"}
	}
	return env
}

// role is a command that runs until SIGTERM.
func (c *cli) role(use, short, long string, run func(context.Context, app.Env) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long: long + `

Serves /healthz, /readyz and /metrics at PERDURE_HTTP_ADDR. The first SIGTERM
stops it gracefully, a second one at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			return run(ctx, c.env(cfg))
		},
	}
}

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/internal/pg"
)

func newMigrate(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to this binary's",
		Long: `The tables of the outbox, the dead-letter index and the rest stand in schema
"perdure" of PERDURE_POSTGRES_URL (PERDURE_POSTGRES_DIRECT_URL behind a pooler).`,
		Example: "perdure migrate status\nperdure migrate up",
	}
	cmd.AddCommand(newMigrateUp(c), newMigrateStatus(c), newMigrateDown(c))
	return cmd
}

func newMigrateUp(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Apply what is missing; safe to run at every deploy",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			url, err := app.DirectURL(cfg)
			if err != nil {
				return exit.Usage(err)
			}
			if err := pg.Migrate(cmd.Context(), url, cfg.Source); err != nil {
				return err
			}
			result := map[string]any{"version": pg.Latest(), "source": cfg.Source}
			return c.printer().One(result, func(w io.Writer) {
				fmt.Fprintf(w, "schema perdure is at version %d, source %s\n", pg.Latest(), cfg.Source)
			})
		},
	}
}

func newMigrateStatus(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the migrations and when each was applied",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			url, err := app.DirectURL(cfg)
			if err != nil {
				return exit.Usage(err)
			}
			list, err := pg.Status(cmd.Context(), url)
			if err != nil {
				return err
			}
			type row struct {
				Version int64      `json:"version"`
				Name    string     `json:"name"`
				Applied *time.Time `json:"applied"` // null: pending
			}
			rows := make([]row, len(list))
			for i, m := range list {
				rows[i] = row{Version: m.Version, Name: m.Name}
				if !m.Applied.IsZero() {
					rows[i].Applied = &m.Applied
				}
			}
			return output.Table(c.printer(), rows, "no migrations", []string{"VERSION", "NAME", "APPLIED"}, func(r row) []string {
				applied := "pending"
				if r.Applied != nil {
					applied = r.Applied.UTC().Format(time.RFC3339)
				}
				return []string{fmt.Sprint(r.Version), r.Name, applied}
			})
		},
	}
}

func newMigrateDown(c *cli) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take back the newest migration; the first one's tables go with every task",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			url, err := app.DirectURL(cfg)
			if err != nil {
				return exit.Usage(err)
			}
			if !yes {
				return exit.Refusal(fmt.Errorf("migrate down drops tables and what is in them: say --yes to mean it"))
			}
			version, err := pg.Down(cmd.Context(), url)
			if err != nil {
				return err
			}
			return c.printer().One(map[string]int64{"taken_back": version}, func(w io.Writer) {
				if version == 0 {
					fmt.Fprintln(w, "nothing was applied")
					return
				}
				fmt.Fprintf(w, "took back migration %d\n", version)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

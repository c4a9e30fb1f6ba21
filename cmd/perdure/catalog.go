package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

func newCatalog(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "catalog",
		Short:   "Check, apply and explain the catalog of kinds and queues",
		Example: "perdure catalog check\nperdure catalog explain refund.issue\nperdure catalog apply",
	}
	cmd.AddCommand(newCatalogCheck(c), newCatalogExplain(c), newCatalogApply(c))
	return cmd
}

// loadCatalog reads the file that was named, else PERDURE_CATALOG.
func (c *cli) loadCatalog(args []string) (path string, cat *schemas.Catalog, err error) {
	cfg, err := c.config()
	if err != nil {
		return "", nil, err
	}
	path = cfg.Catalog
	if len(args) > 0 {
		path = args[0]
	}
	cat, err = schemas.LoadCatalog(path)
	return path, cat, err
}

// environment is the configuration, and the catalog that it names.
func (c *cli) environment() (config.Config, *schemas.Catalog, error) {
	cfg, err := c.config()
	if err != nil {
		return cfg, nil, err
	}
	cat, err := schemas.LoadCatalog(cfg.Catalog)
	return cfg, cat, err
}

func newCatalogCheck(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say what is wrong in the catalog, with file, line and column",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path, cat, err := c.loadCatalog(args)
			if err != nil {
				return err
			}
			for _, w := range cat.Warnings {
				fmt.Fprintln(c.errOut, "perdure: warning:", output.Block(w.Error()))
			}
			result := map[string]any{"file": path, "hash": cat.Hash, "queues": len(cat.Queues), "kinds": len(cat.Kinds)}
			return c.printer().One(result, func(w io.Writer) {
				fmt.Fprintf(w, "%s is valid: %d kinds on %d queues, hash %s\n", output.Safe(path), len(cat.Kinds), len(cat.Queues), cat.Hash)
			})
		},
	}
}

func newCatalogExplain(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [KIND]",
		Short: "What the catalog says of a kind, defaults filled in; without KIND of all",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path, cat, err := c.loadCatalog(nil)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				kinds := make([]app.KindView, 0, len(cat.Kinds))
				for _, name := range cat.KindNames() {
					kinds = append(kinds, app.ViewKind(cat, cat.Kinds[name]))
				}
				return output.Table(c.printer(), kinds, "no kinds", []string{"KIND", "QUEUE", "RUNS IN", "EFFECTS", "TIMEOUT", "ATTEMPTS"}, func(k app.KindView) []string {
					return []string{k.Kind, k.Queue, k.RunsIn, k.Effects, k.Timeout, fmt.Sprint(k.MaxAttempts)}
				})
			}
			k := cat.Kind(args[0])
			if k == nil {
				return exit.Usage(fmt.Errorf("%s has no kind %q; it has %v", path, args[0], cat.KindNames()))
			}
			v := app.ViewKind(cat, k)
			return c.printer().One(v, func(w io.Writer) { showKind(w, v) })
		},
	}
}

func showKind(w io.Writer, v app.KindView) {
	output.Fields(w,
		[2]string{"kind", v.Kind}, [2]string{"queue", fmt.Sprintf("%s (%d partitions)", v.Queue, v.Partitions)}, [2]string{"runs in", v.RunsIn},
		[2]string{"schema", v.Schema}, [2]string{"effects", v.Effects}, [2]string{"order", v.Order}, [2]string{"when dead", v.OnDead},
		[2]string{"timeout", v.Timeout}, [2]string{"heartbeat timeout", v.Heartbeat}, [2]string{"expires after", v.ExpiresAfter}, [2]string{"start within", v.StartWithin}, [2]string{"dependency", v.Dependency},
		[2]string{"schedule", v.Schedule}, [2]string{"next task", v.NextTask},
		[2]string{"attempts", fmt.Sprintf("%d; pauses from %s to %s, at most %s in all", v.MaxAttempts, v.InitialDelay, v.MaxDelay, v.LongestRetry)})
}

func newCatalogApply(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "apply [FILE]",
		Short: "Write the catalog into the database, where SQL producers are checked by it",
		Long: `A dispatcher does this by itself at start, but never takes kinds or queues away;
this does.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			_, cat, err := c.loadCatalog(args)
			if err != nil {
				return err
			}
			changes, err := app.ApplyCatalog(cmd.Context(), cfg, cat)
			if err != nil {
				return err
			}
			return output.Table(c.printer(), changes, "the database has this catalog already", []string{"WHAT", "NAME", "CHANGE"},
				func(ch dispatcher.Change) []string { return []string{ch.What, ch.Name, ch.Action} })
		},
	}
}

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/doctor"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

func newDoctor(c *cli) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at every server and setting, and say how to mend what is wrong",
		Long: `Looks at Postgres, Redis, Kafka, the catalog and this host: can they be reached,
which version, do they keep what they acknowledge, do clocks and topics agree.
It changes nothing. Exits 1 if a finding is "fail".`,
		Example: "perdure doctor\nperdure doctor --all\nperdure doctor -o json | jq '.[] | select(.level != \"ok\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			p := doctor.Patient{Config: cfg}
			p.Catalog, p.CatalogErr = schemas.LoadCatalog(cfg.Catalog)
			findings := doctor.Examine(cmd.Context(), p)
			if c.format == output.Text {
				err = c.printer().One(findings, func(w io.Writer) { showFindings(w, findings, all) })
			} else {
				err = output.Table(c.printer(), findings, "", nil, nil)
			}
			if err == nil && doctor.Worst(findings) == doctor.Fail {
				err = errors.New("something must be mended before this runs safely")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also print what is well")
	return cmd
}

func showFindings(w io.Writer, findings []doctor.Finding, all bool) {
	counts := map[doctor.Level]int{}
	for _, f := range findings {
		counts[f.Level]++
		if f.Level == doctor.OK && !all {
			continue
		}
		fmt.Fprintf(w, "%-4s  %s: %s\n", f.Level, f.Part, output.Safe(f.What))
		if f.Why != "" {
			fmt.Fprintf(w, "      why:  %s\n", output.Safe(f.Why))
		}
		if f.Mend != "" {
			fmt.Fprintf(w, "      mend: %s\n", output.Safe(f.Mend))
		}
	}
	fmt.Fprintf(w, "%d ok, %d warn, %d fail\n", counts[doctor.OK], counts[doctor.Warn], counts[doctor.Fail])
}

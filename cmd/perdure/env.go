package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/config"
)

func newEnv(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "Print the perdure.env of the running `perdure up`",
		Long: `Prints the file by which every command and worker finds the servers of a running
perdure up. It is read by itself where none of PERDURE_POSTGRES_URL,
PERDURE_REDIS_ADDRS and PERDURE_KAFKA_BROKERS is set. It holds a password.`,
		Example: "set -a; eval \"$(perdure env)\"; set +a\npsql \"$PERDURE_POSTGRES_URL\"",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			path := config.EnvFile(cfg.DataDir)
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no %s: start `perdure up`, or set PERDURE_DATA_DIR to its folder", path)
			}
			if err != nil {
				return fmt.Errorf("read perdure.env: %w", err)
			}
			lines, err := config.ReadEnvFile(path)
			if err != nil {
				return err
			}
			return c.printer().One(lines, func(w io.Writer) { fmt.Fprint(w, string(text)) })
		},
	}
}

// Command testpostgres runs a real Postgres for a test run: from the machine's
// binaries or downloaded ones, as an unprivileged user where it is started by
// root. It writes the server's URL to a file once the server answers, and
// stops it on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/perdure/perdure/internal/embedded"
)

func main() {
	dir := flag.String("dir", "", "folder for the cluster (empty: a temporary one)")
	version := flag.String("version", "", "major version (empty: the newest that this machine has)")
	ready := flag.String("ready", "", "file that gets two lines when the server answers: its URL, and what it is")
	flag.Parse()
	if err := run(*dir, *version, *ready); err != nil {
		fmt.Fprintln(os.Stderr, "testpostgres:", err)
		os.Exit(1)
	}
}

func run(dir, version, ready string) (err error) {
	if ready == "" {
		return errors.New("-ready FILE is missing")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir:     dir,
		Version: version,
		Settings: map[string]string{
			"max_connections":           "200",
			"max_prepared_transactions": "20",
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	// By rename, so that whoever waits for the file never reads half of it.
	part := ready + ".part"
	if err := os.WriteFile(part, []byte(p.URL()+"\n"+p.Version()+" ("+p.Source()+")\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(part, ready); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-p.Done():
		return fmt.Errorf("the server %s ended by itself", p.Dir())
	}
}

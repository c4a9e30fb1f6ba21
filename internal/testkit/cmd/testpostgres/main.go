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
	"strings"
	"syscall"

	"github.com/perdure/perdure/internal/embedded"
)

func main() {
	dir := flag.String("dir", "", "folder for the cluster (empty: a temporary one)")
	version := flag.String("version", "", "major version (empty: the newest that this machine has)")
	ready := flag.String("ready", "", "file that gets two lines when the server answers: its URL, and what it is")
	settings := flag.String("settings", "", "of the server's configuration, over those of tests: NAME=VALUE, with spaces between")
	flag.Parse()
	if err := run(*dir, *version, *settings, *ready); err != nil {
		fmt.Fprintln(os.Stderr, "testpostgres:", err)
		os.Exit(1)
	}
}

func run(dir, version, settings, ready string) (err error) {
	if ready == "" {
		return errors.New("-ready FILE is missing")
	}
	with := map[string]string{
		"max_connections":           "200",
		"max_prepared_transactions": "20",
	}
	for s := range strings.FieldsSeq(settings) {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("-settings %q: %q is not NAME=VALUE", settings, s)
		}
		with[name] = value
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p, err := embedded.StartPostgres(ctx, embedded.PostgresConfig{
		Dir:      dir,
		Version:  version,
		Settings: with,
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

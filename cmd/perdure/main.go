// Command perdure is every role and every tool in one binary: see `perdure
// --help`. A file here is one subcommand and holds no logic.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"charm.land/fang/v2"

	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/internal/service"
)

// version is set by the release build: -ldflags "-X main.version=v1.2.3".
var version string

func main() {
	service.QuietRedis()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	c := &cli{out: out, errOut: errOut}
	root := newRoot(c)
	root.SetArgs(args)
	if err := helpOfNothing(root, args); err != nil {
		showError(errOut, err)
		return exit.Code(err)
	}
	quiet := func(io.Writer, fang.Styles, error) {} // told below
	if err := fang.Execute(ctx, root, fang.WithVersion(buildVersion()), fang.WithErrorHandler(quiet)); err != nil {
		c.failed = err // arguments or flags: nothing ran
	}
	if c.failed != nil {
		showError(errOut, c.failed)
	}
	return exit.Code(c.failed)
}

// showError says in plain words why a command failed, and where to look if it
// was called wrongly.
func showError(w io.Writer, err error) {
	fmt.Fprintln(w, "perdure:", output.Block(err.Error()))
	if exit.Code(err) == exit.Wrong {
		fmt.Fprintln(w, "See `perdure --help`, or --help behind any command.")
	}
}

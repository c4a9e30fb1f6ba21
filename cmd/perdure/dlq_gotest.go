package main

// `perdure dlq export ID --as go-test`: one production failure as a test.

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/lettertest"
	"github.com/perdure/perdure/internal/output"
)

// goTest is how a letter becomes a test of a Go package.
type goTest struct {
	as, dir string
	lettertest.Target
}

// goTestFlags are of one letter alone.
var goTestFlags = []string{"as", "dir", "package", "setup", "catalog", "handler"}

func (g *goTest) flags(f *pflag.FlagSet) {
	g.dir, g.Catalog = ".", "catalog.yaml"
	wordVar(f, &g.as, "as", "", "of one letter ID: go-test, a test that fails until your handler completes it")
	f.Var(&flagValue{kind: "string", shown: g.dir, set: func(s string) error { g.dir = s; return nil }}, "dir", "go-test: folder of the package that the handler is in")
	wordVar(f, &g.Package, "package", "", "go-test: its name (default: that of the Go files in --dir)")
	wordVar(f, &g.Setup, "setup", "", "go-test: the function that the program gives to worker.Main (default: what it gives it in --dir, else setup)")
	f.Var(&flagValue{kind: "string", shown: g.Catalog, set: func(s string) error { g.Catalog = s; return nil }}, "catalog", "go-test: the catalog's file, from --dir")
	wordVar(f, &g.Handler, "handler", "", "go-test: run this handler alone, such as handlers{bank}.pay, without --setup and --catalog")
}

// written is the answer of an export as a test.
type written struct {
	Letter string   `json:"letter"`
	Files  []string `json:"files"`
}

func (g *goTest) run(cmd *cobra.Command, c *cli, id string) error {
	switch g.as {
	case "go-test":
	case "":
		return exit.Usage(errors.New("say --as go-test; the letter as JSON: perdure dlq show ID -o json"))
	default:
		return exit.Usage(fmt.Errorf("--as %s: only go-test is known", g.as))
	}
	if g.Package == "" {
		var err error
		if g.Package, err = lettertest.PackageIn(g.dir); err != nil {
			return exit.Usage(err)
		}
	}
	if g.Setup == "" {
		g.Setup = cmp.Or(lettertest.SetupIn(g.dir), "setup")
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	defer cl.Close()
	var l dlq.LetterView
	if err := cl.Get(cmd.Context(), apiclient.Path("dead-letters", id), nil, &l); err != nil {
		return err
	}
	task, err := taskOf(&l)
	if err != nil {
		return err
	}
	files, err := lettertest.Files(&lettertest.Letter{ID: l.Letter, Task: task, Attempt: lastAttempt(l.Attempts), Died: l.DiedAt, Error: said(l.ErrorClass, l.Message)}, g.Target)
	if err != nil {
		return exit.Usage(err)
	}
	names, err := lettertest.Write(g.dir, files)
	if err != nil {
		return err
	}
	return c.printer().One(written{l.Letter, names}, func(w io.Writer) {
		fmt.Fprintf(w, "wrote %s\nnext: go test -run Letter %s\n", output.Safe(strings.Join(names, ", ")), output.Safe(packagePath(g.dir)))
	})
}

// packagePath is dir as `go test` takes it.
func packagePath(dir string) string {
	if filepath.IsAbs(dir) || strings.HasPrefix(dir, ".") {
		return dir
	}
	return "./" + dir
}

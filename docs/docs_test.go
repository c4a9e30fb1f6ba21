// Package docs_test runs every example that the documentation shows.
//
//	go    must stand in a file under examples/, which is compiled and tested
//	yaml  that begins with `version:` must be a valid catalog
//	sql   is run on a migrated database with the catalog of examples/hello
//	sh    is run by bash beside a running `perdure up`, page by page
//
// A block in any other language is for reading only.
package docs_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const helloCatalog = "../examples/hello/catalog.yaml"

// block is one fenced example.
type block struct {
	page string
	line int
	lang string
	text string
}

func (b block) at() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// blocks returns the examples of a language, in the order of pages and lines.
func blocks(t *testing.T, lang string) []block {
	t.Helper()
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, "../README.md")
	var found []block
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		var open *block
		for i, line := range strings.Split(string(text), "\n") {
			switch {
			case open == nil && strings.HasPrefix(line, "```"):
				open = &block{page: page, line: i + 1, lang: strings.TrimPrefix(line, "```")}
			case open != nil && line == "```":
				if open.lang == lang {
					found = append(found, *open)
				}
				open = nil
			case open != nil:
				open.text += line + "\n"
			}
		}
		if open != nil {
			t.Errorf("%s: the block is not closed", open.at())
		}
	}
	if len(found) == 0 {
		t.Fatalf("the documentation has no %s example: this test would check nothing", lang)
	}
	return found
}

func TestGoExamplesStandInExamples(t *testing.T) {
	var sources []string
	err := filepath.WalkDir("../examples", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		sources = append(sources, string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks(t, "go") {
		if !slices.ContainsFunc(sources, func(s string) bool { return strings.Contains(s, b.text) }) {
			t.Errorf("%s: this example stands in no file under examples/", b.at())
		}
	}
}

func TestCatalogExamplesAreValid(t *testing.T) {
	for _, b := range blocks(t, "yaml") {
		if !strings.HasPrefix(b.text, "version:") {
			continue
		}
		if _, err := schemas.ParseCatalog(b.at(), []byte(b.text), fstest.MapFS{}); err != nil {
			t.Errorf("%s: %v", b.at(), err)
		}
	}
}

func TestSQLExamplesRun(t *testing.T) {
	ctx := t.Context()
	url := testkit.MigratedPostgres(t).URL
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	catalog, err := schemas.LoadCatalog(helloCatalog)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dispatcher.ApplyCatalog(ctx, pool, catalog, dispatcher.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks(t, "sql") {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.PgConn().Exec(ctx, b.text).ReadAll(); err != nil {
			t.Errorf("%s: %v", b.at(), err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// notHere are commands that a test of the documentation must not run: the
// README's two are CI itself and the demo's own test.
var notHere = []string{"make test", "go run ./cmd/perdure demo"}

func TestShellExamplesRun(t *testing.T) {
	if testing.Short() {
		t.Skip("starts `perdure up`: not with -short")
	}
	bin, data, work := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Chmod(data, 0o711); err != nil { //nolint:gosec // Postgres runs as another user and must pass through
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "perdure"), "../cmd/perdure").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PERDURE_") {
			env = append(env, v)
		}
	}
	catalog, err := filepath.Abs(helloCatalog)
	if err != nil {
		t.Fatal(err)
	}
	env = append(env, "PATH="+bin+":"+os.Getenv("PATH"), "PERDURE_DATA_DIR="+data, "PERDURE_CATALOG="+catalog)
	up(t, bin, env)

	for _, b := range blocks(t, "sh") {
		if strings.Contains(b.text, notHere[0]) || strings.Contains(b.text, notHere[1]) {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "set -a; eval \"$(perdure env)\"; set +a\n"+b.text)
		cmd.Env, cmd.Dir = env, work
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", b.at(), err, out)
		} else {
			t.Logf("%s\n%s", b.at(), out)
		}
		cancel()
	}
}

// up runs `perdure up` until the test ends, and returns when it is ready.
func up(t *testing.T, bin string, env []string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "perdure"), "up")
	cmd.Env = env
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); _ = w.Close() }()
	said := make(chan string, 1)
	go func() {
		var b strings.Builder
		for s := bufio.NewScanner(r); s.Scan(); {
			b.WriteString(s.Text() + "\n")
		}
		said <- b.String()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("perdure up ended with %v after SIGTERM\n%s", err, <-said)
			}
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			t.Errorf("perdure up did not stop within a minute\n%s", <-said)
		}
	})
	testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("perdure up ended: %v\n%s", err, <-said)
		default:
		}
		get := exec.Command("bash", "-c", `set -a; eval "$(perdure env)"; exec curl -fsS "$PERDURE_API_URL/readyz"`)
		get.Env = env
		out, err := get.CombinedOutput()
		return err == nil, string(out)
	})
}

// Package lettertest makes a Go test of a dead letter: source that runs the
// letter's task against the user's handler with package workertest, and fails for
// as long as the handler does not complete it.
//
// Payload, headers and messages came from outside: each stands in the source as
// a literal that cannot end early, or in a file beside it.
package lettertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/schemas"
)

// maxInline is the largest payload that stands in the source, in bytes.
const maxInline = 4 << 10

// Letter is what a test is made of.
type Letter struct {
	ID      string // of the letter
	Task    schemas.Task
	Attempt int // that it died at, from 1
	Died    time.Time
	Error   string // class and message
}

// Target is what the test runs.
type Target struct {
	Package string // the test's package
	// Setup is the function that the program gives to worker.Main, with the catalog
	// in the file Catalog, as seen from the package. Handler, unless "", is a
	// handler that is run instead, without either.
	Setup, Catalog, Handler string
}

// File is a file of the package.
type File struct {
	Name string // with slashes, from the package's folder
	Data []byte
}

var source = template.Must(template.New("").Parse(`package {{.Package}}

import (
	{{if .File}}"os"
	{{end}}"testing"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/workertest"
)

// {{.Name}} runs the task of dead letter {{.Letter}}. In production it died on {{.Died}}, at attempt {{.Attempt}}:
//
//	{{.Error}}
//
// The test fails until the handler completes it.
func {{.Name}}(t *testing.T) {
	{{if .File}}payload, err := os.ReadFile({{.File}})
	if err != nil {
		t.Fatal(err)
	}
	{{else}}payload := []byte({{.Payload}})
	{{end}}o := {{.Call}},
		{{range .Options}}workertest.{{.}},
		{{end}})
	if o.Result != schemas.OutcomeCompleted {
		t.Errorf("%s %s: %s: %s", o.Result, o.Reason, o.Class, o.Message)
	}
}
`))

// Files returns the test's source, and its payload where that is large.
func Files(l *Letter, to Target) ([]File, error) {
	for _, id := range []string{to.Package, to.Setup, to.Handler} {
		if err := expression(id); err != nil {
			return nil, err
		}
	}
	name := identifier(l.ID)
	v := map[string]any{
		"Package": to.Package, "Name": "TestLetter_" + name, "Letter": comment(l.ID, 300), "Died": l.Died.UTC().Format(time.RFC3339), "Attempt": l.Attempt,
		"Error": comment(l.Error, 300), "Options": options(l), "Payload": literal(string(l.Task.Payload)), "File": "",
	}
	switch {
	case to.Handler != "":
		v["Call"] = "workertest.RunRaw(t, " + to.Handler + ", payload"
	default:
		run := "Run" // under the kind's schema
		if !json.Valid(l.Task.Payload) {
			run = "RunRaw"
		}
		v["Call"] = fmt.Sprintf("workertest.New(t, %s, %s).%s(t, %s, payload", literal(to.Catalog), to.Setup, run, literal(l.Task.Kind))
	}
	var files []File
	if len(l.Task.Payload) > maxInline {
		ext := ".bin"
		if json.Valid(l.Task.Payload) {
			ext = ".json"
		}
		f := File{"testdata/letter_" + name + ext, l.Task.Payload}
		v["File"] = literal(f.Name)
		files = append(files, f)
	}
	var b bytes.Buffer
	if err := source.Execute(&b, v); err != nil {
		return nil, fmt.Errorf("test of %s: %w", l.ID, err)
	}
	text, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("test of %s: %w", l.ID, err)
	}
	return append([]File{{"letter_" + strings.ToLower(name) + "_test.go", text}}, files...), nil
}

// options are what the task began its last attempt with. Its deadline is left out:
// it is over, or will be when the test runs again.
func options(l *Letter) []string {
	t := &l.Task
	list := []string{"ID(" + literal(t.ID) + ")", fmt.Sprintf("Attempt(%d)", max(l.Attempt, 1))}
	if t.Run > 0 {
		list = append(list, fmt.Sprintf("Fence(%d)", t.Run))
	}
	if t.Key != "" {
		list = append(list, "Key("+literal(t.Key)+")")
	}
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		list = append(list, "Header("+literal(name)+", "+literal(t.Headers[name])+")")
	}
	return list
}

// literal is s as Go source: in backquotes where a reader sees what is there, else
// with every byte that is not plain ASCII escaped.
func literal(s string) string {
	if strconv.CanBackquote(s) && output.Safe(s) == s && strings.ContainsAny(s, `"\`) {
		return "`" + s + "`"
	}
	return strconv.QuoteToASCII(s)
}

// comment is at most n runes of a text, on one line; Go allows no byte order mark.
func comment(s string, n int) string {
	return strings.ReplaceAll(output.Cut(s, n), "\ufeff", `\ufeff`)
}

// identifier makes a part of a name of an id.
func identifier(id string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, id)
}

// expression refuses what is not a name, or a call or selector such as
// handlers{fake}.issue: it is put into the source as it stands.
func expression(s string) error {
	if s == "" {
		return nil
	}
	if _, err := parser.ParseExpr(s); err != nil || strings.ContainsAny(s, "\r\n") {
		return fmt.Errorf("%q is not a Go expression", s)
	}
	return nil
}

// PackageIn returns the name of the package whose files lie in dir.
func PackageIn(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.PackageClauseOnly)
		if err == nil && !strings.HasSuffix(parsed.Name.Name, "_test") {
			return parsed.Name.Name, nil
		}
	}
	return "", fmt.Errorf("%s holds no Go package: say which folder by --dir", dir)
}

// Write writes files below dir, none if one of them is there already.
func Write(dir string, files []File) ([]string, error) {
	var names []string
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s is there already: remove it first", name)
		}
		names = append(names, name)
	}
	for i, f := range files {
		if err := os.MkdirAll(filepath.Dir(names[i]), 0o755); err != nil { //nolint:gosec // of source, for everybody to read
			return nil, err
		}
		if err := os.WriteFile(names[i], f.Data, 0o644); err != nil { //nolint:gosec // source, for everybody to read
			return nil, err
		}
	}
	return names, nil
}

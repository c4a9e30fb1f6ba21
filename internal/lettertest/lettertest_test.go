package lettertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
)

const handlerSource = `package payments

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/perdure/perdure/worker"
)

// pay refuses what its header tells it not to expect.
func pay(_ context.Context, t *worker.Task[[]byte]) error {
	sum := sha256.Sum256(t.Payload)
	if got := hex.EncodeToString(sum[:]); got != t.Headers["sum"] {
		return fmt.Errorf("payload %s", got)
	}
	if t.Headers["nasty"] != "` + "\\\"`\\u202e\\n" + `*/" || t.Key != "k\"ey" || t.Attempt != 3 || t.Run != 281474976710657 {
		return fmt.Errorf("%q %q %d %d", t.Headers["nasty"], t.Key, t.Attempt, t.Run)
	}
	return nil
}

func setup(w *worker.Worker) error {
	worker.Handle(w, "pay", pay)
	return nil
}
`

const catalogSource = "version: 1\nqueues: {payments: {}}\nkinds: {pay: {queue: payments}}\n"

// Whatever a letter holds, its test compiles, runs the very bytes, and fails if and
// only if the handler does.
func TestTheTestsCompileAndRunTheVeryBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a package: not with -short")
	}
	if err := os.MkdirAll("testdata", 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("testdata", "package") // inside of the module
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, text := range map[string]string{"pay.go": handlerSource, "catalog.yaml": catalogSource} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	payloads := []string{
		`{"amount":7}`, "", "`", "`+panic(1)+`", "\"\n)\n}\n", "\x00\x1b[31m\xff\u202e", "\r\n\t", "\ufeff", `\u0000`,
		string(bytes.Repeat([]byte{0, '`', '"', 0xff}, 2000)),                  // by a file
		`{"x":"` + strings.Repeat("Größe ", 1000) + `"}`,                       // by another
		strings.Repeat("a", maxInline), strings.Repeat("a", maxInline-1) + "`", // just inline
	}
	want := map[string]bool{}
	for i, p := range payloads {
		for _, broken := range []bool{false, true} {
			for _, target := range []Target{{Package: "payments", Setup: "setup", Catalog: "catalog.yaml"}, {Package: "payments", Handler: "pay"}} {
				l := &Letter{ID: fmt.Sprintf("main-1-%d@%d", len(want), i), Attempt: 3, Died: time.Unix(0, 0), Error: "class: m\n*/ }\x1b\u2028//go:embed " + p,
					Task: schemas.Task{ID: "main-1-7", Kind: "pay", Key: `k"ey`, Payload: []byte(p), Run: 1<<48 + 1,
						Headers: map[string]string{"nasty": "\"`\u202e\n*/", "sum": sum(p, broken)}}}
				files, err := Files(l, target)
				if err != nil {
					t.Fatalf("%q: %v", p, err)
				}
				if again, err := format.Source(files[0].Data); err != nil || !bytes.Equal(again, files[0].Data) {
					t.Errorf("%q: not gofmt'd, %v:\n%s", p, err, files[0].Data)
				}
				if large := len(p) > maxInline; (len(files) == 2) != large {
					t.Errorf("%d bytes are in %d files", len(p), len(files))
				}
				if bytes.ContainsAny(files[0].Data, "\x1b\x00\u202e\u2028") {
					t.Errorf("%q: the source holds what a reader does not see:\n%q", p, files[0].Data)
				}
				if _, err := Write(dir, files); err != nil {
					t.Fatal(err)
				}
				want["TestLetter_"+identifier(l.ID)] = !broken
			}
		}
	}
	out, _ := exec.CommandContext(t.Context(), "go", "test", "-json", "-vet=off", "-ldflags=-s -w", "./"+dir).Output() //nolint:errcheck // half of them fail, as they should
	got := map[string]bool{}
	for line := range bytes.Lines(out) {
		var e struct{ Action, Test string }
		if json.Unmarshal(line, &e) == nil && e.Test != "" && (e.Action == "pass" || e.Action == "fail") {
			got[e.Test] = e.Action == "pass"
		}
	}
	for name, passes := range want {
		if p, ran := got[name]; !ran || p != passes {
			t.Errorf("%s: ran %v, passed %v, want %v", name, ran, p, passes)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d tests ran, want %d:\n%.4000s", len(got), len(want), out)
	}
	if name, err := PackageIn(dir); name != "payments" || err != nil {
		t.Errorf("%s, %v", name, err)
	}
}

func TestNothingIsOverwrittenAndNoSourceIsSmuggledIn(t *testing.T) {
	l := &Letter{ID: "main-1-1@0", Task: schemas.Task{ID: "main-1-1", Kind: "pay", Payload: []byte("x")}}
	dir := t.TempDir()
	files, err := Files(l, Target{Package: "p", Handler: "handlers{nil}.pay"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, files); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, files); err == nil || !strings.Contains(err.Error(), "there already") {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"pay, x); os.Exit(0", "a b", "func(", "pay\n", "pay //"} {
		if _, err := Files(l, Target{Package: "p", Handler: bad}); err == nil {
			t.Errorf("--handler %q is taken", bad)
		}
	}
	if _, err := PackageIn(t.TempDir()); err == nil {
		t.Error("an empty folder is a package")
	}
}

// sum is what the handler compares the payload with.
func sum(payload string, broken bool) string {
	if broken {
		return "another"
	}
	s := sha256.Sum256([]byte(payload))
	return hex.EncodeToString(s[:])
}

func TestTheSetupIsTheProgramsOwn(t *testing.T) {
	for body, want := range map[string]string{
		"func main() { worker.Main(setup) }\nfunc setup(*worker.Worker) error { return nil }":                            "setup",
		"func main() { worker.Main(handlers{bank: real{}, n: 2}.register) }\ntype handlers struct{}\ntype real struct{}": "handlers{bank: real{}, n: 2}.register",
		"func main() { worker.Main(with(nil, true)) }\nfunc with(any, bool) func(*worker.Worker) error { return nil }":   "with(nil, true)",
		"func main() { h := handlers{}; worker.Main(h.register) }\ntype handlers struct{}":                               "", // of main alone
		"func main() { worker.Main(func(*worker.Worker) error { return nil }) }":                                         "",
		"func main() { worker.Main(with(os.Stdout)) }\nfunc with(any) func(*worker.Worker) error { return nil }":         "", // another import
		"func main() { other.Main(setup) }\nfunc setup(*worker.Worker) error { return nil }":                             "",
		"func main() { if x { worker.Main(a) }; worker.Main(b) }\nvar a, b func(*worker.Worker) error":                   "", // which?
		"func register(*worker.Worker) error { return nil }":                                                             "",
	} {
		dir := t.TempDir()
		text := "package main\nimport (\"os\"; \"example.com/other\"; \"github.com/perdure/perdure/worker\")\n" + body
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := SetupIn(dir); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	if got := SetupIn("../../examples/refunds"); got != "handlers{printer{}}.setup" {
		t.Errorf("of the example: %q", got)
	}
	if got := SetupIn("/does/not/exist"); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

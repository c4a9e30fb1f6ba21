package docs_test

// The clients of examples/clients against a real dispatcher, over a network that
// is as bad as they claim to stand.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

const token = "shop-token-0123456789"

// badNetwork is on the way to the API: it refuses the first two posts as a busy
// dispatcher does, and lets the first stream through but loses its answer. Once
// over is set it refuses all posts until midnight, as at a quota. Once half is set,
// two lines of the next stream's answer come, and nothing of those after it.
type badNetwork struct {
	api    http.Handler
	mu     sync.Mutex
	posts  int
	again  time.Duration // from the answer that asked for a second to the next post
	asked  time.Time
	lost   bool
	tokens []string
	over   bool
	late   int // posts after over was set
	half   bool
	halved bool
}

func (n *badNetwork) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.posts++
	post, lose := n.posts, !n.lost && r.Header.Get("Content-Type") == "application/x-ndjson"
	if post == 2 {
		n.again = time.Since(n.asked)
	}
	n.lost = n.lost || lose
	n.tokens = append(n.tokens, r.Header.Get("Authorization"))
	half, halved := n.half && r.Header.Get("Content-Type") == "application/x-ndjson", n.halved
	n.halved = n.halved || half
	over := n.over
	if over {
		n.late++
	}
	n.mu.Unlock()
	switch {
	case halved && half:
		panic(http.ErrAbortHandler)
	case half:
		whole := httptest.NewRecorder()
		n.api.ServeHTTP(whole, r)
		for _, line := range strings.SplitAfter(whole.Body.String(), "\n")[:2] {
			_, _ = io.WriteString(w, line) // of a client that is there
		}
	case over:
		api.WriteProblem(w, api.NewProblem(http.StatusTooManyRequests, "quota-exceeded", "until midnight").WithRetryAfter(time.Hour))
	case post == 1:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		n.mu.Lock()
		n.asked = time.Now()
		n.mu.Unlock()
	case post == 2:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
	case lose:
		n.api.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the connection breaks off
	default:
		n.api.ServeHTTP(w, r)
	}
}

// interpreter finds a program, or skips; where everything must be real, fails.
func interpreter(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv(testkit.EnvRequireReal) == "1" {
		t.Fatalf("%s is not installed, and %s=1", name, testkit.EnvRequireReal)
	}
	t.Skipf("%s is not installed, so the client in its language is not run here", name)
	return ""
}

func TestPythonClient(t *testing.T) {
	judge(t, interpreter(t, "python3"), "../examples/clients/perdure.py")
}

// The types are taken out by esbuild, so that a Node that cannot strip them
// runs the file too; nothing here checks the types.
func TestTypeScriptClient(t *testing.T) {
	node := interpreter(t, "node")
	out := filepath.Join(t.TempDir(), "perdure.mjs")
	build := exec.Command("go", "tool", "-modfile=../.ci/tools/go.mod", "esbuild", "../examples/clients/perdure.ts", "--format=esm", "--target=node18", "--outfile="+out)
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("esbuild: %v\n%s", err, text)
	}
	judge(t, node, out)
}

// judge runs a client twice against a new dispatcher: what it prints, what was
// written, and that the second run writes nothing.
func judge(t *testing.T, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db, err := pg.Pool(ctx, testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	catalog, err := schemas.LoadCatalog(helloCatalog)
	if err != nil {
		t.Fatal(err)
	}
	d, err := dispatcher.New(dispatcher.Config{}, dispatcher.Deps{DB: db, Catalog: catalog, Log: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(file, []byte("tokens:\n- {name: shop, token: "+token+", verbs: [enqueue]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(file)
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(http.NewServeMux(), "test", tokens, slog.New(slog.DiscardHandler))
	d.Routes(a)
	network := &badNetwork{api: a}
	srv := httptest.NewServer(network)
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	t.Cleanup(func() {
		srv.Close()
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		err := d.Ready(ctx)
		return err == nil, fmt.Sprint(err)
	})

	type answer struct {
		ID, State string
		Replayed  bool
		Line      int
		Type      string
		Status    int
		Errors    []schemas.FieldError
		Key       string `json:"idempotency_key"`
	}
	run := func() (one answer, all, each []answer, refused answer) {
		cmd := exec.CommandContext(ctx, program, append(args, "Ada", "Bo", "Cy")...)
		cmd.Env = append(os.Environ(), "PERDURE_API_URL="+srv.URL+"/", "PERDURE_API_TOKEN="+token, "PYTHONDONTWRITEBYTECODE=1")
		var failed bytes.Buffer
		cmd.Stderr = &failed
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s%s", err, out, failed.String())
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != 7 {
			t.Fatalf("%d lines, want 7:\n%s", len(lines), out)
		}
		read := func(line string, into any) {
			t.Helper()
			if err := json.Unmarshal([]byte(line), into); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		each = make([]answer, 4)
		read(lines[0], &one)
		read(lines[1], &all)
		for i := range each {
			read(lines[2+i], &each[i])
		}
		read(lines[6], &refused)
		return one, all, each, refused
	}
	var ids []string
	for _, again := range []bool{false, true} {
		one, all, each, refused := run()
		if len(all) != 3 {
			t.Fatalf("the array got %d answers: %+v", len(all), all)
		}
		got := []string{one.ID, all[0].ID, all[1].ID, all[2].ID, each[0].ID, each[2].ID, each[3].ID}
		if again && !slices.Equal(got, ids) {
			t.Errorf("the second run got %q, the first %q", got, ids)
		}
		ids = got
		if distinct := slices.Compact(slices.Sorted(slices.Values(ids))); len(distinct) != 7 || distinct[0] == "" {
			t.Errorf("ids %q: want seven", ids)
		}
		// The lost answer's tasks were accepted: the answer that came says so.
		if !each[0].Replayed || each[1].Line != 2 || each[1].Status != 422 || len(each[1].Errors) != 1 || each[1].Errors[0].Pointer != "#/payload" {
			t.Errorf("lines %+v", each)
		}
		if refused.Type != "urn:perdure:problem:unknown-kind" || refused.Status != 422 || refused.Errors[0].Pointer != "#/kind" {
			t.Errorf("the unknown kind: %+v", refused)
		}
		var n int
		if err := db.QueryRow(ctx, `select count(*) from perdure.outbox`).Scan(&n); err != nil || n != 7 {
			t.Errorf("%d tasks, %v: want 7", n, err)
		}
	}
	network.mu.Lock()
	network.half = true
	network.mu.Unlock()
	if _, _, each, _ := run(); each[0].ID != ids[4] || each[1].Status != 422 || each[2].Status != 503 || each[2].Key != "each-Bo" || each[3].Key != "each-Cy" || each[0].Key+each[1].Key != "" {
		t.Errorf("half an answer: %+v", each)
	}
	network.mu.Lock()
	network.over = true
	network.mu.Unlock()
	cmd := exec.CommandContext(ctx, program, append(args, "Di")...)
	cmd.Env = append(os.Environ(), "PERDURE_API_URL="+srv.URL, "PERDURE_API_TOKEN="+token, "PYTHONDONTWRITEBYTECODE=1")
	text, err := cmd.CombinedOutput()
	network.mu.Lock()
	defer network.mu.Unlock()
	if err == nil || !strings.Contains(string(text), "quota-exceeded") || network.late != 1 {
		t.Errorf("a quota that is used up: %v after %d posts, want a refusal after one\n%s", err, network.late, text)
	}
	if network.again < time.Second || !network.lost {
		t.Errorf("the client came back %s after it was asked to wait a second; a stream's answer was lost: %v", network.again, network.lost)
	}
	for _, sent := range network.tokens {
		if sent != "Bearer "+token {
			t.Errorf("a post with Authorization %q", sent)
		}
	}
}

package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/apiclient"
	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/exit"
	"github.com/perdure/perdure/internal/jqchild"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "up" { // see startUp
		os.Exit(upProcess())
	}
	if len(os.Args) == 2 && os.Args[1] == "fix-jq" { // see runUp
		if err := jqchild.Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	testkit.Main(m)
}

func upProcess() int {
	cfg, err := config.LoadEnvironment()
	if err == nil {
		ctx, stop := service.Signals(context.Background())
		defer stop()
		err = app.Up(ctx, app.Env{Config: cfg, Out: os.Stdout, ErrOut: os.Stderr})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
	}
	return exit.Code(err)
}

// upRun is a `perdure up` in a process of its own, so that it can be killed.
type upRun struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startUp(t *testing.T, dir, catalog string) *upRun {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	u := &upRun{cmd: exec.Command(self, "up"), done: make(chan struct{})}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PERDURE_") {
			u.cmd.Env = append(u.cmd.Env, kv)
		}
	}
	u.cmd.Env = append(u.cmd.Env, "PERDURE_DATA_DIR="+dir, "PERDURE_CATALOG="+catalog)
	log, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	u.cmd.Stdout, u.cmd.Stderr = log, log
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = u.cmd.Wait() // ProcessState says how it ended
		_ = log.Close()
		close(u.done)
	}()
	t.Cleanup(func() {
		_ = u.cmd.Process.Kill() // ended already, if all went well
		<-u.done
	})
	return u
}

func (u *upRun) signal(t *testing.T, sig os.Signal) (code int) {
	t.Helper()
	if err := u.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	return u.ended(t)
}

func (u *upRun) ended(t *testing.T) (code int) {
	t.Helper()
	select {
	case <-u.done:
		return u.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		t.Fatal("does not end")
		return 0
	}
}

// client waits until the node answers, and finds it by its perdure.env.
func client(t *testing.T, dir string) *apiclient.Client {
	t.Helper()
	var c *apiclient.Client
	testkit.Eventually(t, 60*time.Second, func() (bool, string) {
		lines, err := config.ReadEnvFile(config.EnvFile(dir))
		if err != nil {
			return false, err.Error() + "\n" + logOf(dir)
		}
		for _, l := range lines {
			if l.Name == "PERDURE_API_URL" {
				if c, err = apiclient.New(config.Config{APIURL: l.Value}); err != nil {
					return false, err.Error()
				}
			}
		}
		if c == nil {
			return false, "perdure.env has no API address"
		}
		var ready struct{ Ready bool }
		if err := c.Get(t.Context(), "/readyz", nil, &ready); err != nil || !ready.Ready {
			c.Close()
			return false, fmt.Sprint(err) + "\n" + logOf(dir)
		}
		return true, ""
	})
	t.Cleanup(c.Close)
	return c
}

func logOf(dir string) string {
	b, err := os.ReadFile(dir + ".log")
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// endpoint counts what it is asked to do, by the payload's number.
type endpoint struct {
	mu   sync.Mutex
	seen map[int]int
	open chan struct{} // closed: answer; before that, hold every request
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-e.open:
	case <-r.Context().Done():
		return
	}
	var task struct{ N int }
	if err := json.NewDecoder(r.Body).Decode(&task); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen[task.N]++
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.seen)
}

// TestUpSurvivesSIGKILL: what was accepted before the kill is run after it (I1);
// a second `up` on the folder is refused; a stop leaves nothing running.
func TestUpSurvivesSIGKILL(t *testing.T) {
	e := &endpoint{seen: map[int]int{}, open: make(chan struct{})}
	srv := httptest.NewServer(e)
	defer srv.Close()
	root := t.TempDir()
	for dir := root; strings.HasPrefix(dir, os.TempDir()+string(filepath.Separator)); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil { // an embedded Postgres of root's is another user
			t.Fatal(err)
		}
	}
	dir, catalog := filepath.Join(root, "data"), filepath.Join(root, "catalog.yaml")
	text := "version: 1\nqueues:\n  hello: {partitions: 4}\nkinds:\n  hello.world:\n    queue: hello\n    executor: {http: {url: \"" + srv.URL + "\"}}\n"
	if err := os.WriteFile(catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	first := startUp(t, dir, catalog)
	c := client(t, dir)
	const tasks = 200
	var body strings.Builder
	for n := range tasks {
		fmt.Fprintf(&body, `{"kind":"hello.world","payload":{"n":%d}}`+"\n", n)
	}
	accepted := 0
	err := c.PostLines(t.Context(), "/v1/tasks", []byte(body.String()), func(line []byte) error {
		if !bytes.Contains(line, []byte(`"id"`)) {
			return errors.New(string(line))
		}
		accepted++
		return nil
	})
	if err != nil || accepted != tasks {
		t.Fatalf("%d of %d accepted: %v\n%s", accepted, tasks, err, logOf(dir))
	}

	second := startUp(t, dir, catalog)
	if code := second.ended(t); code != exit.Refused || !strings.Contains(logOf(dir), "is in use by process") {
		t.Errorf("a second up on the folder: exit %d\n%s", code, logOf(dir))
	}

	if code := first.signal(t, syscall.SIGKILL); code != -1 {
		t.Errorf("killed, but exit %d", code)
	}
	close(e.open) // nothing has run so far
	third := startUp(t, dir, catalog)
	testkit.Eventually(t, 90*time.Second, func() (bool, string) {
		return e.count() == tasks, fmt.Sprintf("%d of %d ran\n%s", e.count(), tasks, logOf(dir))
	})
	client(t, dir)
	if code := third.signal(t, syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM: exit %d\n%s", code, logOf(dir))
	}
	if _, err := os.Stat(config.EnvFile(dir)); !os.IsNotExist(err) {
		t.Errorf("perdure.env is still there: %v", err)
	}
}

// occupyPort takes the API's well-known port, unless another process has it.
func occupyPort(t *testing.T) {
	t.Helper()
	if ln, err := service.Listen("127.0.0.1:17070"); err == nil {
		t.Cleanup(func() { _ = ln.Close() })
	}
}

// Ctrl-C while the servers are still starting is a stop like any other.
func TestUpThatIsStoppedWhileItStartsEndsWell(t *testing.T) {
	root := t.TempDir()
	catalog := filepath.Join(root, "catalog.yaml")
	if err := os.WriteFile(catalog, []byte("version: 1\nqueues:\n  q: {partitions: 1}\nkinds:\n  k:\n    queue: q\n    executor: {http: {url: \"http://127.0.0.1:9/\"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	cfg := config.Config{Source: "main", Catalog: catalog, DataDir: filepath.Join(root, "data"), LogLevel: "info", RedisKeyPrefix: "perdure:", KafkaTopics: "create"}
	if err := app.Up(ctx, app.Env{Config: cfg, Out: io.Discard, ErrOut: io.Discard}); err != nil {
		t.Errorf("up: %v", err)
	}
}

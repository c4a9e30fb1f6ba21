package loadtest

// A fleet: the four roles as processes of their own, on the test's servers, as
// an operator would run them. They may be killed.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// binary builds perdure once for the package's tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "perdure-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "perdure")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/perdure").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

type fleet struct {
	t   *testing.T
	bin string
	env []string
	dir string
	api string

	Kafka  testkit.KafkaServer
	Redis  testkit.RedisServer
	DB     string // URL of the migrated database
	Ledger *Ledger
	Hook   string // URL of the ledger
}

// newFleet gives the test a catalog of one kind, `load.step`, whose executor is
// a ledger, and migrated servers; no role runs yet.
func newFleet(t *testing.T, ledger *Ledger, retry string) *fleet {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes: not with -short")
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, bin: bin, dir: t.TempDir(), Ledger: ledger}
	server := &http.Server{Handler: ledger, ReadHeaderTimeout: time.Minute}
	ln := listen(t)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served; http.DefaultClient.CloseIdleConnections() })
	f.Hook = "http://" + ln.Addr().String() + "/run"

	catalog := fmt.Sprintf(`version: 1
queues:
  load: {partitions: 4}
kinds:
  load.step:
    queue: load
    timeout: 10s
    effects: fenced
    retry: {%s}
    executor: {http: {url: %q}}
`, retry, f.Hook)
	f.write("catalog.yaml", catalog)

	f.Kafka, f.Redis = testkit.Kafka(t), testkit.Redis(t)
	f.DB = testkit.Postgres(t).URL
	apiAddr := testkit.FreeAddr(t)
	f.api = "http://" + apiAddr
	f.env = append(os.Environ(),
		"PERDURE_CATALOG="+filepath.Join(f.dir, "catalog.yaml"),
		"PERDURE_DATA_DIR="+filepath.Join(f.dir, "data"),
		"PERDURE_POSTGRES_URL="+f.DB,
		"PERDURE_REDIS_ADDRS="+f.Redis.Addr,
		"PERDURE_REDIS_KEY_PREFIX="+f.Redis.Prefix,
		"PERDURE_KAFKA_BROKERS="+strings.Join(f.Kafka.Brokers, ","),
		"PERDURE_KAFKA_TOPIC_PREFIX="+f.Kafka.Prefix,
		"PERDURE_API_URL="+f.api,
		"PERDURE_LOG_FORMAT=json",
	)
	f.run("migrate", "up")
	return f
}

func (f *fleet) write(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// command is a perdure command in the fleet's environment.
func (f *fleet) command(args ...string) *exec.Cmd {
	cmd := exec.Command(f.bin, args...)
	cmd.Env, cmd.Dir = f.env, f.dir
	return cmd
}

// run runs a command to its end and returns what it printed on stdout.
func (f *fleet) run(args ...string) string {
	f.t.Helper()
	cmd := f.command(args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("perdure %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// role is a running process of the fleet.
type role struct {
	name string
	addr string
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a role and waits until it is ready.
func (f *fleet) start(name, instance string, env ...string) *role {
	f.t.Helper()
	r := &role{name: name + " " + instance, addr: testkit.FreeAddr(f.t), cmd: f.command(name), done: make(chan struct{})}
	if name == "dispatcher" {
		r.addr = strings.TrimPrefix(f.api, "http://")
	}
	log, err := os.Create(filepath.Join(f.dir, name+"-"+instance+".log"))
	if err != nil {
		f.t.Fatal(err)
	}
	r.cmd.Env = append(append([]string(nil), f.env...),
		append([]string{"PERDURE_HTTP_ADDR=" + r.addr, "PERDURE_INSTANCE=" + name + "-" + instance}, env...)...)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() { defer close(r.done); _ = r.cmd.Wait(); _ = log.Close() }()
	f.t.Cleanup(func() {
		r.signal(syscall.SIGTERM)
		select {
		case <-r.done:
		case <-time.After(40 * time.Second):
			f.t.Errorf("%s did not stop within 40 s of SIGTERM", r.name)
			r.signal(syscall.SIGKILL)
			<-r.done
		}
		if f.t.Failed() {
			f.t.Logf("--- log of %s\n%s", r.name, tail(log.Name()))
		}
	})
	testkit.Eventually(f.t, time.Minute, func() (bool, string) {
		select {
		case <-r.done:
			f.t.Fatalf("%s ended at once\n%s", r.name, tail(log.Name()))
		default:
		}
		code, body := get(r.addr, "/readyz")
		return code == http.StatusOK, fmt.Sprintf("%s is not ready: %d %s", r.name, code, body)
	})
	return r
}

func (r *role) signal(s os.Signal) {
	select {
	case <-r.done:
	default:
		_ = r.cmd.Process.Signal(s)
	}
}

// kill is kill -9; it returns when the process is gone.
func (r *role) kill() {
	r.signal(syscall.SIGKILL)
	<-r.done
}

// balance is what `perdure balance` says.
func (f *fleet) balance() (b struct {
	Accepted, Completed, Waiting, Dead, Replayed, Lost int64
}) {
	f.t.Helper()
	if err := json.Unmarshal([]byte(f.run("balance", "-o", "json")), &b); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func get(addr, path string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// tail is the end of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-6000):])
}

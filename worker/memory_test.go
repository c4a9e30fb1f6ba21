package worker_test

// What a worker's memory is made of: so much a task that it holds, and nothing
// for those that wait in Kafka. The worker is a process of its own, which tells
// its figures over HTTP. The long run of the same is in soak_test.go.

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// What a task in flight may cost above its payload, in bytes: on the heap, whether
// it is held or runs, and for the stack of one that runs.
const (
	heapBound  = 4 << 10
	stackBound = 4 << 10
)

// measured is what a process is told, in MEASURED.
type measured struct {
	Catalog, Redis, Keys, Prefix string
	Brokers                      []string
	Concurrency                  int
}

// figures are a process's, after a garbage collection.
type figures struct {
	Begun, Ended int64
	Heap, Stack  uint64 // in use, bytes
	Peak         uint64 // of the resident set since the start, bytes
	Goroutines   int
}

func (f figures) String() string {
	return fmt.Sprintf("%d begun, heap %.1f MiB, stacks %.1f MiB, peak of the process %.1f MiB, %d goroutines",
		f.Begun, mib(f.Heap), mib(f.Stack), mib(f.Peak), f.Goroutines)
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// runAsMeasured turns this test binary into a worker whose handlers wait for
// POST /go, and which prints the address where it tells its figures.
func runAsMeasured() bool {
	text := os.Getenv("MEASURED")
	if text == "" {
		return false
	}
	if err := serveAsMeasured(text); err != nil {
		fmt.Fprintln(os.Stderr, "measured:", err)
		os.Exit(1)
	}
	return true
}

func serveAsMeasured(text string) error {
	var m measured
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte(m.Catalog), nil)
	if err != nil {
		return err
	}
	names := kafka.Names{Prefix: m.Prefix}
	store, err := newStore(m.Redis, m.Keys, names, m.Brokers, claims.DefaultBeatTTL, func(func()) {})
	if err != nil {
		return err
	}
	wk, err := worker.New(worker.Config{Instance: "measured", NameHeld: true, Concurrency: m.Concurrency},
		worker.Deps{Catalog: cat, Names: names, Kafka: []kgo.Opt{kgo.SeedBrokers(m.Brokers...)}, Claims: store})
	if err != nil {
		return err
	}
	var begun, ended atomic.Int64
	release := make(chan struct{})
	worker.Handle(wk, "job.run", func(ctx context.Context, _ *worker.Task[[]byte]) error {
		begun.Add(1)
		defer ended.Add(1)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /go", func(http.ResponseWriter, *http.Request) { close(release) })
	mux.HandleFunc("GET /count", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(figures{Begun: begun.Load(), Ended: ended.Load()})
	})
	mux.HandleFunc("GET /figures", func(rw http.ResponseWriter, _ *http.Request) {
		runtime.GC()
		debug.FreeOSMemory()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		_ = json.NewEncoder(rw).Encode(figures{
			Begun: begun.Load(), Ended: ended.Load(), Heap: s.HeapAlloc, Stack: s.StackInuse,
			Peak: peakResident(), Goroutines: runtime.NumGoroutine(),
		})
	})
	go func() { _ = http.Serve(ln, mux) }() //nolint:gosec // a test's own
	fmt.Println(ln.Addr())
	return wk.Run(context.Background())
}

// peakResident reads VmHWM; 0 where there is no /proc.
func peakResident() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	_, line, found := strings.Cut(string(status), "VmHWM:")
	if err != nil || !found {
		return 0
	}
	kib, err := strconv.ParseUint(strings.Fields(line)[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// subject is a measured process.
type subject struct {
	*world
	url string
}

func (w *world) measure(concurrency int) *subject {
	w.Helper()
	text, err := json.Marshal(measured{
		Catalog: memoryCatalog, Redis: w.redis, Keys: w.keys, Prefix: w.names.Prefix,
		Brokers: w.kafka.Brokers, Concurrency: concurrency,
	})
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MEASURED="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var addr string
	if _, err := fmt.Fscan(out, &addr); err != nil {
		w.Fatal(err)
	}
	return &subject{w, "http://" + addr}
}

func (s *subject) get(path string) (f figures) {
	s.Helper()
	res, err := http.Get(s.url + path)
	if err != nil {
		s.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&f); err != nil {
		s.Fatal(err)
	}
	return f
}

func (s *subject) letGo() {
	s.Helper()
	res, err := http.Post(s.url+"/go", "", nil)
	if err != nil {
		s.Fatal(err)
	}
	res.Body.Close()
}

// reach waits until n tasks have begun and returns the figures then.
func (s *subject) reach(n int64) figures {
	s.Helper()
	testkit.Eventually(s, 10*time.Minute, func() (bool, string) {
		f := s.get("/count")
		return f.Begun >= n, fmt.Sprintf("%d of %d have begun", f.Begun, n)
	})
	return s.get("/figures")
}

const memoryCatalog = `
version: 1
queues:
  jobs: {partitions: 4, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 30m}
`

// backlog produces n tasks of so many bytes.
func (w *world) backlog(n, size int) {
	w.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Brokers...), kgo.ProducerLinger(10*time.Millisecond), kgo.MaxBufferedRecords(20_000))
	if err != nil {
		w.Fatal(err)
	}
	defer cl.Close()
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte('a' + i%26)
	}
	for range n {
		t := w.task("job.run", nil)
		cl.Produce(w.Context(), &kgo.Record{
			Topic: w.names.Tasks("jobs"), Key: []byte(t.RecordKey()), Value: payload,
			Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &t),
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				w.Error(err)
			}
		})
	}
	if err := cl.Flush(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// TestTenThousandTasksInFlight holds 10,000 tasks in one worker, all running or
// a few running and the others in line, and counts bytes and goroutines.
func TestTenThousandTasksInFlight(t *testing.T) {
	t.Parallel()
	const size, tasks = 1024, 10_000
	for _, concurrency := range []int{64, tasks} {
		t.Run(fmt.Sprintf("%d of them run", concurrency), func(t *testing.T) {
			w := newWorld(t, memoryCatalog)
			s := w.measure(concurrency)
			w.backlog(1, size) // its clients are connected, its maps made
			before := s.reach(1)
			w.backlog(tasks-1, size)
			after := s.reach(int64(concurrency))
			// What is in line beside them has been fetched when it no longer grows.
			for stable := 0; stable < 3; {
				next := s.get("/figures")
				stable++
				if next.Heap > after.Heap+after.Heap/200 {
					stable = 0
				}
				after.Heap, after.Stack = max(after.Heap, next.Heap), max(after.Stack, next.Stack)
				after.Goroutines = max(after.Goroutines, next.Goroutines)
			}
			heap := (int64(after.Heap)-int64(before.Heap))/tasks - size
			stack := (int64(after.Stack) - int64(before.Stack)) / tasks
			t.Logf("before: %v", before)
			t.Logf("after:  %v", after)
			t.Logf("a task takes %d bytes of heap above its payload, and %d of stack", heap, stack)
			if heap > heapBound {
				t.Errorf("%d bytes of heap a task above its payload, want at most %d", heap, heapBound)
			}
			bound := int64(stackBound) * int64(concurrency) / tasks
			if testkit.Race { // its frames are larger, and stacks grow by doubling
				bound *= 2
			}
			if slack := int64(256); stack > bound+slack {
				t.Errorf("%d bytes of stack a task with %d running, want at most %d", stack, concurrency, bound+slack)
			}
			if heap < -size/2 {
				t.Errorf("%d bytes a task: they were not held, so nothing was measured", heap)
			}
			if more := after.Goroutines - before.Goroutines; more > concurrency+16 {
				t.Errorf("%d goroutines more with a concurrency of %d", more, concurrency)
			}
			s.letGo()
			w.committedAll("jobs")
		})
	}
}

// TestABacklogDoesNotGrowTheWorker measures a worker while it works off a backlog
// and after it.
func TestABacklogDoesNotGrowTheWorker(t *testing.T) {
	t.Parallel()
	backlogMemory(t, 60_000)
}

func backlogMemory(t *testing.T, tasks int) {
	const size = 256
	w := newWorld(t, memoryCatalog)
	w.backlog(tasks, size)
	const concurrency = 64
	s := w.measure(concurrency)
	s.letGo()
	// What it holds, and one answer of each broker, twenty times as large as sent.
	bound := uint64(worker.DefaultMaxHeld*(heapBound+size) + len(w.kafka.Brokers)*24<<20)
	var first figures
	for part := range 10 {
		f := s.reach(int64(tasks * part / 10))
		t.Logf("%v", f)
		if part == 1 {
			first = f
		}
		if f.Heap > bound {
			t.Errorf("a heap of %.1f MiB, want at most %.1f", mib(f.Heap), mib(bound))
		}
		if part > 1 && f.Goroutines > first.Goroutines+concurrency+16 {
			t.Errorf("goroutines grew from %d to %d", first.Goroutines, f.Goroutines)
		}
	}
	w.committedAll("jobs")
	// What is left is the memory of what was done in the last seconds: a leak of
	// 20 bytes a task would show in a million.
	end := s.get("/figures")
	t.Logf("at its end: %v", end)
	if end.Heap > 32<<20 {
		t.Errorf("%.1f MiB are left when there is nothing to do", mib(end.Heap))
	}
}

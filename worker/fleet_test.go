package worker_test

// A fleet of worker processes, a load on it, and a ledger beside it: an HTTP
// server that notes every start and every effect and knows nothing of Perdure
// but the fence.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const (
	fleetPartitions = 6
	fleetCatalog    = `
version: 1
queues:
  jobs: {partitions: 6, replication: 3}
kinds:
  job.run:
    queue: jobs
    timeout: 20s
    effects: fenced
    retry: {max_attempts: 20, initial_delay: 20ms, max_delay: 50ms}
  job.keyed:
    queue: jobs
    timeout: 20s
    order: key
    effects: fenced
    retry: {max_attempts: 20, initial_delay: 20ms, max_delay: 50ms}
`
)

// duty is the payload: which of its key's (or of its partition's) tasks it is.
type duty struct {
	N         int    `json:"n"`
	Key       string `json:"key,omitempty"`
	Partition int32  `json:"partition"`
	MS        int    `json:"ms"` // of work
}

// note is one line of the ledger.
type note struct {
	At      time.Time `json:"-"`
	What    string    `json:"what"` // began, applied; removed, of a process; else a fault
	Worker  string    `json:"worker"`
	PID     int       `json:"pid"`
	ID      string    `json:"id"`
	Run     int64     `json:"run"`
	Refused bool      `json:"-"` // an effect with a fence below one that was seen
	duty
}

// history is what happened, in the order in which the ledger's server saw it.
type history struct {
	mu      sync.Mutex
	notes   []note
	highest map[string]int64
	applied map[string]bool
}

func (h *history) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var n note
	if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	if h.add(n) {
		rw.WriteHeader(http.StatusPreconditionFailed)
	}
}

// add notes n and reports whether its fence is refused.
func (h *history) add(n note) (refused bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n.At = time.Now()
	n.Refused = n.Run < h.highest[n.ID]
	h.highest[n.ID] = max(h.highest[n.ID], n.Run)
	if n.What == "applied" && !n.Refused {
		h.applied[n.ID] = true
	}
	h.notes = append(h.notes, n)
	return n.Refused
}

// since returns a copy of the notes from the i-th on.
func (h *history) since(i int) []note {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]note(nil), h.notes[i:]...)
}

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.notes)
}

func (h *history) appliedCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.applied)
}

// crew is what a process of the fleet is told, in CREW.
type crew struct {
	Instance, Redis, Keys, Prefix, URL string
	Catalog                            string
	Brokers                            []string
	Held                               bool
	Log                                string // file
	Broken                             string // the mutation in this process; "" = none
	Session                            time.Duration
}

// runAsCrew turns this test binary into a worker of the fleet; SIGTERM stops it.
func runAsCrew() bool {
	text := os.Getenv("CREW")
	if text == "" {
		return false
	}
	if err := serveAsCrew(text); err != nil {
		fmt.Fprintln(os.Stderr, "crew:", err)
		os.Exit(1)
	}
	return true
}

func serveAsCrew(text string) error {
	var c crew
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	if c.Broken == beside {
		c.Catalog = strings.ReplaceAll(c.Catalog, "order: key", "order: none")
	}
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte(c.Catalog), nil)
	if err != nil {
		return err
	}
	names := kafka.Names{Prefix: c.Prefix}
	store, err := brokenStore(c, names)
	if err != nil {
		return err
	}
	log, err := crewLog(c)
	if err != nil {
		return err
	}
	wk, err := worker.New(
		worker.Config{
			Instance: c.Instance, NameHeld: c.Held, Concurrency: 32, Grace: 5 * time.Second,
			CommitInterval: 50 * time.Millisecond, SessionTimeout: c.Session,
		},
		worker.Deps{Catalog: cat, Names: names, Kafka: []kgo.Opt{kgo.SeedBrokers(c.Brokers...)}, Claims: store, Log: log})
	if err != nil {
		return err
	}
	if c.Broken != gaveUp {
		onDuty(wk, c.Instance, c.URL)
	} else {
		onDutyOnce(wk, c.Instance, c.URL)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return wk.Run(ctx)
}

// crewLog is a file, from which the one line that a history is judged by goes to
// the ledger too: that the others removed this process.
func crewLog(c crew) (*slog.Logger, error) {
	out, err := os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return slog.New(teller{slog.NewTextHandler(out, nil), c}), nil
}

type teller struct {
	slog.Handler
	crew crew
}

// Handle implements slog.Handler.
func (t teller) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "the others removed this worker") {
		if err := post(ctx, http.DefaultClient, t.crew.URL, note{What: "removed", Worker: t.crew.Instance, PID: os.Getpid()}); err != nil {
			return err
		}
	}
	return t.Handler.Handle(ctx, r)
}

// onDuty gives wk the handlers that write the ledger.
func onDuty(wk *worker.Worker, instance, url string) {
	handle := dutyHandler(instance, url)
	worker.Handle(wk, "job.run", handle)
	worker.Handle(wk, "job.keyed", handle)
}

func dutyHandler(instance, url string) func(context.Context, *worker.Task[duty]) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	return func(ctx context.Context, t *worker.Task[duty]) error {
		n := note{What: "began", Worker: instance, PID: os.Getpid(), ID: t.ID, Run: t.Run, duty: t.Payload}
		if err := post(ctx, client, url, n); err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(t.Payload.MS) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		n.What = "applied"
		return post(ctx, client, url, n)
	}
}

func post(ctx context.Context, client *http.Client, url string, n note) error {
	body, err := json.Marshal(n)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode == http.StatusPreconditionFailed {
		return fmt.Errorf("the fence refuses run %d", n.Run)
	}
	return nil
}

// fleet is a world with worker processes in it.
type fleet struct {
	*world
	catalog string
	ledger  *history
	url     string
	load    *kgo.Client
	sent    map[string]duty // by task id
	sentMu  sync.Mutex
	seqs    [fleetPartitions]int
	keys    map[string]int
	logs    string // directory of the processes' logs

	broken  string        // mutation in the processes that are hired
	session time.Duration // their Kafka session; 0 = the default
}

func newFleet(t testing.TB, opts ...option) *fleet { return newFleetOf(t, fleetCatalog, opts...) }

func newFleetOf(t testing.TB, catalog string, opts ...option) *fleet {
	t.Helper()
	f := &fleet{
		catalog: catalog, world: newWorld(t, catalog, opts...),
		ledger: &history{highest: map[string]int64{}, applied: map[string]bool{}},
		sent:   map[string]duty{}, keys: map[string]int{},
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Long: on a busy machine a second between a connection and its first bytes is
	// nothing, and a note that gets no answer is a task that fails and begins again.
	srv := &http.Server{Handler: f.ledger, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	f.url = "http://" + ln.Addr().String()
	if f.load, err = kgo.NewClient(kgo.SeedBrokers(f.kafka.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.load.Close)
	if f.logs, err = os.MkdirTemp("", "perdure-fleet-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the processes' logs are kept in %s", f.logs)
		} else if err := os.RemoveAll(f.logs); err != nil {
			t.Error(err)
		}
	})
	return f
}

// man is one process of the fleet.
type man struct {
	*fleet
	name string
	cmd  *exec.Cmd
	died chan struct{}
}

// hire starts a worker process. held: it knows that nobody else has its name.
func (f *fleet) hire(name string, held bool) *man {
	f.Helper()
	text, err := json.Marshal(crew{
		Instance: name, Redis: f.redis, Keys: f.world.keys, Prefix: f.names.Prefix, URL: f.url, Catalog: f.catalog, Brokers: f.kafka.Brokers, Held: held,
		Log: filepath.Join(f.logs, name+".log"), Broken: f.broken, Session: f.session,
	})
	if err != nil {
		f.Fatal(err)
	}
	m := &man{fleet: f, name: name, cmd: exec.Command(os.Args[0]), died: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), "CREW="+string(text))
	m.cmd.Stderr = os.Stderr
	if err := m.cmd.Start(); err != nil {
		f.Fatal(err)
	}
	go func() {
		defer close(m.died)
		_ = m.cmd.Wait() // how it ended is the test's to judge, by the ledger
	}()
	f.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		<-m.died
	})
	return m
}

// signal sends s; the history says so first where s can let a task run again.
func (m *man) signal(s syscall.Signal) {
	m.Helper()
	switch s {
	case syscall.SIGKILL:
		m.ledger.add(note{What: faultKilled, Worker: m.name, PID: m.cmd.Process.Pid})
	case syscall.SIGSTOP:
		m.ledger.add(note{What: faultPaused, Worker: m.name, PID: m.cmd.Process.Pid})
	}
	if err := m.cmd.Process.Signal(s); err != nil {
		m.Fatalf("signal %v to %s: %v", s, m.name, err)
	}
}

// runs waits until the process has begun a task.
func (m *man) runs() {
	m.Helper()
	testkit.Eventually(m, wait, func() (bool, string) {
		for _, n := range m.ledger.since(0) {
			if n.PID == m.cmd.Process.Pid {
				return true, ""
			}
		}
		return false, m.name + " has begun nothing"
	})
}

// feed produces one task to each partition every interval until ctx ends: of
// work ms, every third of a key of its partition.
func (f *fleet) feed(ctx context.Context, interval time.Duration, ms int) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var recs []*kgo.Record
		for p := range int32(fleetPartitions) {
			f.seqs[p]++
			d := duty{N: f.seqs[p], Partition: p, MS: ms}
			kind := "job.run"
			if d.N%3 == 0 {
				kind, d.Key, d.MS = "job.keyed", fmt.Sprintf("k%d-%d", p, d.N/3%4), ms/4
				f.keys[d.Key]++
				d.N = f.keys[d.Key]
			}
			t := f.task(kind, d)
			t.Key, t.Ordered = d.Key, d.Key != ""
			f.sentMu.Lock()
			f.sent[t.ID] = d
			f.sentMu.Unlock()
			recs = append(recs, &kgo.Record{
				Topic: f.names.Tasks("jobs"), Partition: p, Key: []byte(t.RecordKey()), Value: t.Payload,
				Headers: schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &t),
			})
		}
		if err := f.load.ProduceSync(context.WithoutCancel(ctx), recs...).FirstErr(); err != nil {
			f.Errorf("produce: %v", err)
			return
		}
	}
}

// feeding starts feed; the func returned stops it and waits.
func (f *fleet) feeding(interval time.Duration, ms int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.feed(ctx, interval, ms) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	f.Cleanup(stop)
	return stop
}

// finish waits until everything sent has its effect, or no more comes, and
// checks the history.
func (f *fleet) finish(timeout time.Duration) {
	f.Helper()
	f.sentMu.Lock()
	total := len(f.sent)
	f.sentMu.Unlock()
	deadline := time.Now().Add(timeout)
	testkit.Eventually(f, timeout+time.Second, func() (bool, string) {
		n := f.ledger.appliedCount()
		return n >= total || time.Now().After(deadline), fmt.Sprintf("%d of %d", n, total)
	})
	c := check(f.sent, f.ledger.since(0))
	f.Logf("%d tasks, %d starts, %d re-runs, %d effects refused by the fence", total, c.starts, c.reruns, c.refused)
	for _, bad := range c.violations {
		f.Error(bad)
	}
}

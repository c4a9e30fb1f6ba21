package loadtest

// A rolling deploy of a catalog with one kind more, under load. For a while
// there are tasks of a kind that some workers do not know. Checks I1 and I2.

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// stream posts a task of each of its kinds every 20 ms, each until it is
// accepted: under an idempotency key, as a producer does that wants it once.
type stream struct {
	f     *fleet
	mu    sync.Mutex
	kinds []string
	sent  map[string]int // kind → accepted
	stop  chan struct{}
	ended chan struct{}
}

func (f *fleet) stream(kinds ...string) *stream {
	s := &stream{f: f, kinds: kinds, sent: map[string]int{}, stop: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	f.t.Cleanup(s.end)
	return s
}

func (s *stream) run() {
	defer close(s.ended)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
		s.mu.Lock()
		kinds := s.kinds
		s.mu.Unlock()
		for _, kind := range kinds {
			if err := s.post(kind, n); err != nil {
				s.f.t.Error(err)
				return
			}
			s.mu.Lock()
			s.sent[kind]++
			s.mu.Unlock()
		}
	}
}

// post tries until the task is accepted or refused for good.
func (s *stream) post(kind string, n int) error {
	body := fmt.Appendf(nil, `{"kind":%q,"payload":{"kind":%q,"row":%d}}`, kind, kind, n)
	why := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		req, err := http.NewRequest(http.MethodPost, s.f.api+"/v1/tasks", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", fmt.Sprintf("%s-%d", kind, n))
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
			switch {
			case res.StatusCode == http.StatusAccepted:
				return nil
			case res.StatusCode < 500 && res.StatusCode != http.StatusConflict && res.StatusCode != http.StatusTooManyRequests:
				return fmt.Errorf("task %d of kind %s was refused: %s", n, kind, res.Status)
			}
			err = fmt.Errorf("%s", res.Status)
		}
		why = err.Error()
		select {
		case <-time.After(50 * time.Millisecond): // a dispatcher is being replaced
		case <-s.stop:
			return nil
		}
	}
	return fmt.Errorf("task %d of kind %s was never accepted: %s", n, kind, why)
}

func (s *stream) also(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds = append(append([]string(nil), s.kinds...), kind)
}

// end stops the stream and waits; accepted is what it sent.
func (s *stream) end() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	<-s.ended
}

func (s *stream) accepted(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[kind]
}

// replace stops a role as a deploy does, and starts it with what the files say now.
func (f *fleet) replace(r *role, name, instance string) *role {
	f.t.Helper()
	r.signal(syscall.SIGTERM)
	<-r.done
	return f.start(name, instance)
}

var unknownKindWaits = regexp.MustCompile(`perdure_worker_waits_total\{[^}]*reason="unknown_kind"[^}]*\} (\d+)`)

// waits is how many tasks of unknown kinds a worker has sent on.
func (r *role) waits(t *testing.T) int {
	t.Helper()
	res, err := http.Get("http://" + r.addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := unknownKindWaits.FindSubmatch(body)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestADeployThatAddsAKindKillsNothing(t *testing.T) {
	f := newFleet(t, &Ledger{}, patient)
	began := time.Now()
	said := func(what string) {
		t.Logf("%v: %s, %+v", time.Since(began).Round(100*time.Millisecond), what, f.Ledger.Summary())
	}
	roles := map[string]*role{}
	for _, name := range []string{"dispatcher", "relay", "replayer"} {
		roles[name] = f.start(name, "1")
	}
	workers := []*role{f.start("worker", "a"), f.start("worker", "b"), f.start("worker", "c")}
	s := f.stream("load.step")
	testkit.Eventually(t, time.Minute, func() (bool, string) { return f.Ledger.Summary().Tasks > 20, "the load does not run" })

	old, err := os.ReadFile(filepath.Join(f.dir, "catalog.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, step, _ := strings.Cut(string(old), "kinds:\n")
	f.write("catalog.yaml", string(old)+strings.Replace(step, "load.step", "load.fresh", 1))
	// The worst order: tasks of the new kind come before any worker knows it.
	for _, name := range []string{"dispatcher", "relay", "replayer"} {
		roles[name] = f.replace(roles[name], name, "1")
		said(name + " replaced")
	}
	s.also("load.fresh")
	for _, w := range workers {
		testkit.Eventually(t, time.Minute, func() (bool, string) { return w.waits(t) > 0, "no task of the new kind has met " + w.name })
	}
	// Some come back from their delay, and still nobody knows them.
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		met, sent := 0, s.accepted("load.fresh")
		for _, w := range workers {
			met += w.waits(t)
		}
		return met > sent+5 || f.balance().Dead > 0, fmt.Sprintf("%d meetings with %d tasks", met, sent)
	})
	for i, name := range []string{"a", "b", "c"} {
		had := f.Ledger.Summary().Tasks
		workers[i] = f.replace(workers[i], "worker", name)
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			return f.Ledger.Summary().Tasks > had+20, "the load stands still"
		})
		said("worker " + name + " replaced")
	}
	s.end()

	n := s.accepted("load.step") + s.accepted("load.fresh")
	testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
		b := f.balance()
		return b.Completed+b.Dead+b.Lost >= int64(n), fmt.Sprintf("balance: %+v, want %d", b, n)
	})
	said("all done")
	if b := f.balance(); b.Dead != 0 || b.Lost != 0 || b.Waiting != 0 || b.Completed != int64(n) {
		t.Errorf("balance %+v, want %d completed and nothing else", b, n)
	}
	want := Summary{Tasks: n, Deliveries: n, Applied: n, Bodies: n}
	if got := f.Ledger.Summary(); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
	t.Logf("%d tasks, %d of them of the new kind", n, s.accepted("load.fresh"))
}

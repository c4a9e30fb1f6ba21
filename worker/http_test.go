package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const httpCatalog = `
version: 1
queues:
  jobs: {partitions: 2, replication: 1}
kinds:
  job.run:
    queue: jobs
    timeout: 2s
    retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}
    executor: {http: {url: "%s/run"}}
`

func endpoint(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv.URL
}

func TestAnEndpointRunsEachTaskOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	posts := map[string]int{}
	url := endpoint(t, func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("Idempotency-Key")
		posts[id]++
		switch {
		case !strings.HasPrefix(string(body), `{"n":`) || r.Header.Get("Webhook-Id") != id || r.Header.Get("Ce-Id") != id:
			rw.WriteHeader(422)
		case strings.HasSuffix(id, "7") && posts[id] == 1:
			rw.WriteHeader(503)
		}
	})
	w := newWorld(t, fmt.Sprintf(httpCatalog, url))
	w.start("a", nil, nil)
	ids := w.sendJobs(200)
	w.committedAll("jobs")
	mu.Lock()
	defer mu.Unlock()
	for _, id := range ids {
		want := 1
		if strings.HasSuffix(id, "7") {
			want = 2
		}
		if posts[id] != want {
			t.Errorf("%s was posted %d times, want %d", id, posts[id], want)
		}
	}
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d letters, first %+v", len(letters), letters[0])
	}
}

func TestAMisconfiguredEndpointOpensItsBreakerAndCostsNoAttempt(t *testing.T) {
	var mended atomic.Bool
	var refused, served, attempts atomic.Int64
	url := endpoint(t, func(rw http.ResponseWriter, r *http.Request) {
		if !mended.Load() {
			refused.Add(1)
			rw.WriteHeader(404)
			return
		}
		if r.Header.Get("Perdure-Attempt") != "1" {
			attempts.Add(1)
		}
		served.Add(1)
	})
	w := newWorld(t, fmt.Sprintf(httpCatalog, url))
	w.start("a", func(c *worker.Config) { c.Concurrency = 4 }, nil)
	w.sendJobs(50)
	// The first ones that run open it; after that only single probes come.
	testkit.Eventually(t, wait, func() (bool, string) { return refused.Load() >= 5, fmt.Sprint(refused.Load(), " refused") })
	if n := refused.Load(); n > 8 {
		t.Errorf("%d requests went to an endpoint that answers 404", n)
	}
	mended.Store(true)
	testkit.Eventually(t, wait, func() (bool, string) { return served.Load() == 50, fmt.Sprint(served.Load(), " served") })
	w.committedAll("jobs")
	if n := attempts.Load(); n != 0 {
		t.Errorf("%d tasks had used an attempt", n)
	}
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d letters: an outage is not the tasks' failure", len(letters))
	}
	told := map[string]int{}
	testkit.Eventually(t, wait, func() (bool, string) {
		clear(told)
		for _, r := range w.read(w.names.Events("jobs")) {
			e, err := dlq.DecodeEvent(r)
			if err != nil {
				t.Fatal(err)
			}
			var data struct{ Reason, Kind string }
			if err := json.Unmarshal(e.Data, &data); err != nil {
				t.Fatal(err)
			}
			told[fmt.Sprint(e.Type, " ", data.Reason, " ", data.Kind)]++
		}
		return told["breaker_closed  job.run"] == 1, fmt.Sprintf("%v: that it was closed is not told", told)
	})
	if told["waiting breaker job.run"] < 5 || len(told) != 2 {
		t.Errorf("%v: want the breaker of job.run, told at each probe", told)
	}
}

func TestAWrongPathHoldsUpNoOtherKindOfTheSameServer(t *testing.T) {
	t.Parallel()
	var refused, served atomic.Int64
	url := endpoint(t, func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Ce-Type") == "wrong.run" {
			refused.Add(1)
			rw.WriteHeader(404)
			return
		}
		served.Add(1)
	})
	for name, path := range map[string]string{"another path": "/no/such/path", "the same URL": "/run"} {
		t.Run(name, func(t *testing.T) {
			refused.Store(0)
			served.Store(0)
			wrong := fmt.Sprintf("  wrong.run: {queue: jobs, executor: {http: {url: %q}}}\n", url+path)
			w := newWorld(t, fmt.Sprintf(httpCatalog, url)+wrong)
			a := w.start("a", func(c *worker.Config) { c.Concurrency = 4 }, nil)
			for range 50 {
				w.send(w.task("wrong.run", job{}))
			}
			testkit.Eventually(t, wait, func() (bool, string) {
				return a.count(t, "perdure_worker_breaker_open", "wrong.run") == 1, "its breaker is closed"
			})
			// Each pause of an open breaker is twice the last: with a breaker in common
			// these would wait for minutes, or close it, and those above never wait.
			began, probes := time.Now(), refused.Load()
			w.sendJobs(50)
			testkit.Eventually(t, wait, func() (bool, string) { return served.Load() == 50, fmt.Sprint(served.Load(), " served") })
			took := time.Since(began)
			if took > 10*time.Second {
				t.Errorf("50 tasks of the kind whose path is right took %v", took)
			}
			if n := refused.Load() - probes; n > 2+int64(took/time.Second) {
				t.Errorf("%d requests went to the wrong path meanwhile: its breaker does not hold", n)
			}
			if n := a.count(t, "perdure_worker_breaker_open", "wrong.run"); n != 1 {
				t.Error("the wrong kind's breaker was closed by another's answers")
			}
		})
	}
}

func TestConflictUsesNoAttempt(t *testing.T) {
	t.Parallel()
	var posts atomic.Int64
	url := endpoint(t, func(rw http.ResponseWriter, r *http.Request) {
		if posts.Add(1) <= 4 { // more often than max_attempts
			rw.WriteHeader(409)
			return
		}
		if r.Header.Get("Perdure-Attempt") != "1" {
			rw.WriteHeader(422)
		}
	})
	w := newWorld(t, fmt.Sprintf(httpCatalog, url))
	w.start("a", nil, nil)
	w.sendJobs(1)
	w.committedAll("jobs")
	if letters := w.letters("jobs"); posts.Load() != 5 || len(letters) != 0 {
		t.Errorf("%d posts, %d letters; want 5, 0", posts.Load(), len(letters))
	}
}

func TestServeRunsFromTheEnvironment(t *testing.T) {
	w := newWorld(t, catalogText)
	l := newLedger()
	stop := w.serveFromEnvironment(t, catalogText, nil, ledgered(l))
	w.sendJobs(5)
	l.doneWithin(t, 5)
	w.committedAll("jobs")
	stop()
}

// serveFromEnvironment runs worker.Serve until stop is called, or the test ends.
func (w *world) serveFromEnvironment(t *testing.T, catalog string, more map[string]string, setup func(*worker.Worker)) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "catalog.yaml")
	if err := os.WriteFile(file, []byte(catalog), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"CATALOG": file, "DATA_DIR": dir, "REDIS_ADDRS": w.redis, "REDIS_KEY_PREFIX": w.keys,
		"KAFKA_BROKERS": strings.Join(w.kafka.Brokers, ","), "KAFKA_TOPIC_PREFIX": w.names.Prefix,
		"POSTGRES_URL": "", "LOG_LEVEL": "error",
	}
	maps.Copy(env, more)
	for name, value := range env {
		t.Setenv("PERDURE_"+name, value)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var log strings.Builder
	go func() {
		done <- worker.Serve(ctx, &log, func(wk *worker.Worker) error {
			setup(wk)
			return nil
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v\n%s", err, log.String())
			}
		case <-time.After(wait):
			t.Error("Serve did not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// TestTheEnvironmentSaysHowManyHandlersRunAtOnce: fewer than the default, and more.
func TestTheEnvironmentSaysHowManyHandlersRunAtOnce(t *testing.T) {
	catalog := strings.Replace(catalogText, "timeout: 2s", "timeout: 2m", 1)
	for _, n := range []int64{3, worker.DefaultConcurrency + 6} {
		t.Run(strconv.FormatInt(n, 10), func(t *testing.T) {
			w := newWorld(t, catalog)
			w.sendJobs(100)
			var running, most, ended atomic.Int64
			open := make(chan struct{})
			w.serveFromEnvironment(t, catalog, map[string]string{"CONCURRENCY": strconv.FormatInt(n, 10)}, func(wk *worker.Worker) {
				worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error {
					defer ended.Add(1)
					defer running.Add(-1)
					if now := running.Add(1); now > most.Load() {
						most.Store(now)
					}
					<-open
					return nil
				})
			})
			testkit.Eventually(t, wait, func() (bool, string) {
				got := running.Load()
				return got >= n, fmt.Sprintf("%d run at once, want %d", got, n)
			})
			close(open)
			testkit.Eventually(t, wait, func() (bool, string) {
				got := ended.Load()
				return got == 100, fmt.Sprintf("%d of 100 have ended", got)
			})
			if got := most.Load(); got != n {
				t.Errorf("%d ran at once, want %d", got, n)
			}
		})
	}
}

func TestAnOldRecordOfAReplayedTaskSaysResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	l := newLedger()
	w.start("a", nil, ledgered(l))
	task := w.task("job.run", job{N: 1})
	task.Epoch = 1
	w.send(task)
	l.doneWithin(t, 1)
	w.committedAll("jobs")
	recs := w.read(w.names.DLQ("jobs"))
	if len(recs) != 1 || headerOf(recs[0], schemas.HeaderRecord) != "resolved" || headerOf(recs[0], schemas.HeaderEpoch) != "1" ||
		string(recs[0].Key) != task.ID || len(recs[0].Value) != 0 {
		t.Fatalf("%d records on the dead-letter topic, want one that says resolved", len(recs))
	}
	task.Epoch = 0 // its first life, seen again
	w.send(task)
	w.committedAll("jobs")
	if n := l.runsOf(task.ID); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

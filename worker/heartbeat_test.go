package worker_test

// What is heard of running tasks, and what they say that they found: on real
// Kafka and Redis.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const beatCatalog = `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 60s, heartbeat_timeout: 1s, retry: {max_attempts: 2, initial_delay: 20ms, max_delay: 50ms}}
`

func TestARunningTaskMustBeHeardOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, beatCatalog)
	l := newLedger()
	said := make(chan string, 1)
	a := w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			switch task.Payload.Mode {
			case "beats":
				for i := range 25 {
					if err := task.Heartbeat(map[string]int{"done": i}); err != nil {
						return err
					}
					select {
					case <-ctx.Done():
						return errors.New("ended though it was heard of")
					case <-time.After(100 * time.Millisecond):
					}
				}
				said <- task.ID
				return task.SetResult([]int{1, 2})
			default:
				<-ctx.Done()
				return ctx.Err()
			}
		})
	})
	beats, silent := w.task("job.run", job{Mode: "beats"}), w.task("job.run", job{})
	w.send(beats, silent)
	testkit.Eventually(t, wait, func() (bool, string) {
		p, err := w.store().Progress(t.Context(), beats.ID)
		return err == nil && bytes.Contains(p.Value, []byte(`"done":`)), fmt.Sprintf("%+v %v", p, err)
	})
	<-said
	letters := w.lettersWithin("jobs", 1)
	if x := letters[0]; x.TaskID != silent.ID || x.Reason != schemas.ReasonExhausted || x.ErrorClass != "heartbeat timeout" || len(x.Attempts) != 2 {
		t.Errorf("%+v", x)
	}
	w.committedAll("jobs")
	if l.runsOf(beats.ID) != 1 || w.claims(beats.ID)[0].State != claims.Done {
		t.Errorf("the one that was heard of ran %d times", l.runsOf(beats.ID))
	}
	results := 0
	for _, r := range w.read(w.names.Events("jobs")) {
		if e, err := dlq.DecodeEvent(r); err == nil && e.Type == dlq.EventResult && e.TaskID == beats.ID && string(e.Data) == `[1,2]` {
			results++
		}
	}
	if results != 1 {
		t.Errorf("%d results", results)
	}
	if n := a.count(t, "perdure_worker_abandoned_total", ""); n != 0 {
		t.Errorf("%v abandoned", n)
	}
}

// An endpoint: one call that takes long and is heard of on the way, one that is
// silent, one that answers 202.
func TestAnEndpointIsHeardOf(t *testing.T) {
	t.Parallel()
	var url string // of the API, which the endpoint calls
	var cut sync.Map
	endpoint := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		id, fence := r.Header.Get("Ce-Id"), r.Header.Get("Perdure-Fence")
		body, _ := io.ReadAll(r.Body)
		switch {
		case bytes.Contains(body, []byte("out")):
			rw.WriteHeader(http.StatusAccepted)
		case bytes.Contains(body, []byte("beats")):
			for range 20 {
				status, answer := postJSON(t, url+"/v1/tasks/"+id+"/heartbeat", `{"run":"`+fence+`"}`)
				if status != 200 || answer["state"] != "running" {
					t.Errorf("%d %v", status, answer)
				}
				time.Sleep(100 * time.Millisecond)
			}
		default:
			select {
			case <-r.Context().Done():
				cut.Store(id, true)
			case <-time.After(wait):
			}
		}
	}))
	defer endpoint.Close()
	w := newWorld(t, strings.Replace(beatCatalog, "max_attempts: 2, initial_delay: 20ms, max_delay: 50ms}}",
		"max_attempts: 1}, executor: {http: {url: \""+endpoint.URL+"\"}}}", 1))
	url = serveReports(w)
	w.start("a", nil, nil)
	beats, silent, out := w.task("job.run", job{Mode: "beats"}), w.task("job.run", job{}), w.task("job.run", job{Mode: "out"})
	w.send(beats, silent, out)
	testkit.Eventually(t, wait, func() (bool, string) {
		c := w.claims(beats.ID, out.ID)
		return c[0].State == claims.Done && c[1].Elsewhere == time.Second, fmt.Sprintf("%+v", c)
	})
	if l := w.lettersWithin("jobs", 1)[0]; l.TaskID != silent.ID || l.ErrorClass != "heartbeat timeout" {
		t.Errorf("%+v", l)
	}
	testkit.Eventually(t, wait, func() (bool, string) {
		_, ok := cut.Load(silent.ID)
		return ok, "the silent call is still open"
	})
}

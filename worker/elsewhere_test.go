package worker_test

// Work that goes on elsewhere: on real Kafka and Redis, with reports that come
// over HTTP as users send them.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
	"github.com/perdure/perdure/worker/reports"
)

const elsewhereCatalog = `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
  lines: {partitions: 1, replication: 1}
kinds:
  job.out: {queue: jobs, heartbeat_timeout: 60s, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
  job.short: {queue: jobs, heartbeat_timeout: 1s, retry: {max_attempts: 2, initial_delay: 20ms, max_delay: 50ms}}
  job.once: {queue: jobs, heartbeat_timeout: 1s, effects: once}
  line.out: {queue: lines, heartbeat_timeout: 60s, order: key, retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}}
`

// outside is a world whose tasks' work goes on elsewhere.
type outside struct {
	*world
	l     *ledger
	url   string
	moved map[string]int // records of a delay topic that were put back
	mu    sync.Mutex
	ran   []string // in order: <id>/<attempt>, "!" behind it if in doubt
}

func newOutside(t *testing.T, mode func(task *worker.Task[job]) error, opts ...option) *outside {
	t.Helper()
	o := &outside{world: newWorld(t, elsewhereCatalog, opts...), l: newLedger(), moved: map[string]int{}}
	o.start("a", nil, func(wk *worker.Worker) {
		for _, kind := range []string{"job.out", "job.short", "job.once", "line.out"} {
			worker.Handle(wk, kind, func(_ context.Context, task *worker.Task[job]) error {
				o.l.began(task.ID, task.Run)
				o.mu.Lock()
				doubt := ""
				if task.InDoubt {
					doubt = "!"
				}
				o.ran = append(o.ran, fmt.Sprintf("%s/%d%s", task.ID, task.Attempt, doubt))
				o.mu.Unlock()
				return mode(task)
			})
		}
	})
	o.url = serveReports(o.world)
	return o
}

// serveReports serves the routes of a dispatcher that reports come to.
func serveReports(w *world) string {
	w.Helper()
	desk, err := reports.New(reports.Deps{
		Claims: w.store(), Producer: w.cl, Kafka: []kgo.Opt{kgo.SeedBrokers(w.kafka.Brokers...)}, Names: w.names, Source: "main",
		Ended: func(_ context.Context, id string) error {
			w.endedMu.Lock()
			defer w.endedMu.Unlock()
			w.ended = append(w.ended, id)
			return errors.New("Postgres is away") // whoever reports need not know
		},
	})
	if err != nil {
		w.Fatal(err)
	}
	mux := http.NewServeMux()
	desk.Routes(api.New(mux, "test", nil, nil))
	srv := httptest.NewServer(mux)
	w.Cleanup(srv.Close)
	return srv.URL
}

// postJSON sends JSON and returns the status and the answer.
func postJSON(t testing.TB, url, body string) (int, map[string]any) {
	t.Helper()
	res, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s: %s", res.Status, raw)
	}
	return res.StatusCode, out
}

func (o *outside) says(id, what, body string) (int, map[string]any) {
	o.Helper()
	return postJSON(o, o.url+"/v1/tasks/"+id+"/"+what, body)
}

// leaves sends a task and waits until its work goes on elsewhere.
func (o *outside) leaves(task schemas.Task) claims.Claim {
	o.Helper()
	o.send(task)
	return o.waits(task.ID)
}

func (o *outside) waits(id string) (c claims.Claim) {
	o.Helper()
	testkit.Eventually(o, wait, func() (bool, string) {
		c = o.claims(id)[0]
		return c.State == claims.Waiting && c.Elsewhere > 0, fmt.Sprintf("claim %+v", c)
	})
	return c
}

// timers puts what is new on the delay topics back onto its queue, as the relay
// does when it is due, and returns how many records that were.
func (o *outside) timers() (n int) {
	o.Helper()
	for _, tier := range kafka.Tiers {
		topic := o.names.Retry(tier.Name)
		recs := o.read(topic)
		for _, r := range recs[o.moved[topic]:] {
			if headerOf(r, schemas.HeaderTimer) != schemas.TimerElsewhere {
				o.Errorf("a retry that sees after nothing: %v", r.Headers)
			}
			queue := headerOf(r, schemas.HeaderQueue)
			headers := []kgo.RecordHeader{}
			for _, h := range r.Headers {
				if h.Key != schemas.HeaderQueue && h.Key != schemas.HeaderDue {
					headers = append(headers, h)
				}
			}
			o.sendRaw(&kgo.Record{Topic: o.names.Tasks(queue), Key: r.Key, Value: r.Value, Headers: headers})
			n++
		}
		o.moved[topic] = len(recs)
	}
	return n
}

func (o *outside) order() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.ran, " ")
}

func pendingAtFirst(task *worker.Task[job]) error {
	if task.Attempt == 1 {
		return worker.Pending()
	}
	return nil
}

func TestWorkElsewhereCompletes(t *testing.T) {
	t.Parallel()
	o := newOutside(t, pendingAtFirst)
	task := o.task("job.out", job{})
	task.Unique = true
	c := o.leaves(task)
	o.committedAll("jobs") // its timer stands for it now
	run := fmt.Sprintf("%019d", c.Run)

	// Its timer comes early: it is heard of, so that it is timed again, and not run.
	if n := o.timers(); n != 1 {
		t.Fatalf("%d timers", n)
	}
	o.committedAll("jobs")
	if got := o.order(); got != task.ID+"/1" {
		t.Fatalf("ran %s", got)
	}

	status, answer := o.says(task.ID, "heartbeat", `{"run":"`+run+`","progress":{"pages":3}}`)
	if status != 200 || answer["state"] != "waiting" || answer["cancel"] != false || answer["within_seconds"] != 60.0 {
		t.Errorf("heartbeat: %d %v", status, answer)
	}
	for i, repeated := range []any{nil, true} {
		status, answer = o.says(task.ID, "outcome", `{"run":`+fmt.Sprint(c.Run)+`,"outcome":"completed","result":{"pages":7}}`)
		if status != 200 || answer["state"] != "completed" || answer["repeated"] != repeated {
			t.Errorf("outcome %d: %d %v", i, status, answer)
		}
	}
	if o.claims(task.ID)[0].State != claims.Done {
		t.Error("it is not done")
	}
	results := 0
	for _, r := range o.read(o.names.Events("jobs")) {
		if e, err := dlq.DecodeEvent(r); err == nil && e.Type == dlq.EventResult && e.TaskID == task.ID && string(e.Data) == `{"pages":7}` && e.Attempt == 1 {
			results++
		}
	}
	if results != 1 {
		t.Errorf("%d results", results)
	}
	if n := o.timers(); n != 1 {
		t.Errorf("%d timers that were timed again", n)
	}
	o.committedAll("jobs")
	if got := o.order(); got != task.ID+"/1" {
		t.Errorf("it ran again after it was done: %s", got)
	}
	// Its unique key: the dispatcher gives it back, at each report; and its timer says so.
	o.endedMu.Lock()
	defer o.endedMu.Unlock()
	if told := o.told("jobs"); !slices.Equal(told, []string{task.ID}) || !slices.Equal(o.ended, []string{task.ID, task.ID}) {
		t.Errorf("told %v by the timer, and %v by the reports", told, o.ended)
	}
	for _, what := range []string{"heartbeat", "outcome"} {
		if status, answer = o.says(task.ID, what, `{"run":`+fmt.Sprint(c.Run)+`,"outcome":"retry"}`); what == "outcome" && (status != 409 || answer["type"] != "urn:perdure:problem:run-over") {
			t.Errorf("%s after it was done: %d %v", what, status, answer)
		}
	}
}

func TestWorkElsewhereFails(t *testing.T) {
	t.Parallel()
	o := newOutside(t, func(task *worker.Task[job]) error {
		if task.Attempt < 3 {
			return worker.Pending()
		}
		return nil
	})
	// A failure that may be tried again: twice, then it succeeds.
	again := o.task("job.out", job{})
	c := o.leaves(again)
	for n := 1; n < 3; n++ {
		body := fmt.Sprintf(`{"run":%d,"outcome":"retry","error":{"class":"Busy","message":"try %d"}}`, c.Run, n)
		if status, answer := o.says(again.ID, "outcome", body); status != 200 || answer["state"] != "reported" {
			t.Fatalf("%d %v", status, answer)
		}
		if n == 1 {
			testkit.Eventually(t, wait, func() (bool, string) { return o.l.runsOf(again.ID) == 2, o.order() })
			c = o.waits(again.ID)
		}
	}
	testkit.Eventually(t, wait, func() (bool, string) { return o.claims(again.ID)[0].State == claims.Done, o.order() })
	if want := fmt.Sprintf("%[1]s/1 %[1]s/2 %[1]s/3", again.ID); o.order() != want {
		t.Errorf("ran %s, want %s", o.order(), want)
	}

	// One that will fail again: a letter, with what was reported in it.
	dies := o.task("job.out", job{})
	c = o.leaves(dies)
	if status, answer := o.says(dies.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"dead","error":{"class":"NoSuchAccount","message":"account is closed"}}`, c.Run)); status != 200 {
		t.Fatalf("%d %v", status, answer)
	}
	letters := o.lettersWithin("jobs", 1)
	if l := letters[0]; l.TaskID != dies.ID || l.Reason != schemas.ReasonPermanent || l.ErrorClass != "NoSuchAccount" || l.Message != "account is closed" ||
		len(l.Attempts) != 1 || l.Attempts[0].N != 1 || l.Attempts[0].Run != c.Run || l.Attempts[0].Worker != "local" {
		t.Errorf("%+v", l)
	}
	o.timers() // all of theirs come in the end, and change nothing
	o.committedAll("jobs")
	if n := len(o.letters("jobs")); n != 1 {
		t.Errorf("%d letters", n)
	}
	if n := o.l.runsOf(dies.ID); n != 1 {
		t.Errorf("the dead one ran %d times", n)
	}
}

func TestWorkElsewhereFallsSilent(t *testing.T) {
	t.Parallel()
	o := newOutside(t, func(task *worker.Task[job]) error {
		if task.Payload.Mode == "" && task.Attempt == 2 {
			return nil
		}
		return worker.Pending()
	})
	runs := o.task("job.short", job{})
	c := o.leaves(runs)
	once := o.task("job.once", job{})
	o.leaves(once)
	tired := o.task("job.short", job{Mode: "never"})
	first := o.leaves(tired).Run
	time.Sleep(1100 * time.Millisecond) // their heartbeat_timeout
	o.timers()
	testkit.Eventually(t, wait, func() (bool, string) {
		return o.claims(runs.ID)[0].State == claims.Done, o.order()
	})
	if !strings.Contains(o.order(), runs.ID+"/2!") {
		t.Errorf("not in doubt: %s", o.order())
	}
	// The one that was silent comes back: a failure is late, a success is a success.
	if status, _ := o.says(runs.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"retry"}`, c.Run)); status != 409 {
		t.Errorf("%d", status)
	}
	if status, _ := o.says(runs.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed"}`, c.Run)); status != 200 {
		t.Errorf("%d", status)
	}
	// The tired one goes out a second time, which is its last attempt.
	testkit.Eventually(t, wait, func() (bool, string) { return o.l.runsOf(tired.ID) == 2, o.order() })
	o.waits(tired.ID)
	time.Sleep(1100 * time.Millisecond)
	o.timers()
	reasons := map[string]*dlq.Letter{}
	for _, l := range o.lettersWithin("jobs", 2) {
		reasons[l.TaskID] = l
	}
	if l := reasons[once.ID]; l == nil || l.Reason != schemas.ReasonUnknown || l.ErrorClass != "heartbeat timeout" {
		t.Errorf("once: %+v", l)
	}
	if l := reasons[tired.ID]; l == nil || l.Reason != schemas.ReasonExhausted || l.ErrorClass != "heartbeat timeout" || len(l.Attempts) != 2 || l.Attempts[0].Run != first {
		t.Errorf("exhausted: %+v", l)
	}
	if n := o.l.runsOf(once.ID); n != 1 {
		t.Errorf("the once one ran %d times", n)
	}
}

func TestWorkElsewhereHoldsItsKey(t *testing.T) {
	t.Parallel()
	o := newOutside(t, pendingAtFirst)
	first, second := o.task("line.out", job{}), o.task("line.out", job{N: 2})
	first.Key, second.Key = "k", "k"
	o.send(first, second)
	c := o.waits(first.ID)
	if n := o.timers(); n != 0 {
		t.Errorf("%d timers of a task that waits at its record", n)
	}
	if status, answer := o.says(first.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"retry"}`, c.Run)); status != 200 {
		t.Fatalf("%d %v", status, answer)
	}
	testkit.Eventually(t, wait, func() (bool, string) { return o.l.runsOf(second.ID) == 1, o.order() })
	if want := fmt.Sprintf("%[1]s/1 %[1]s/2 %[2]s/1", first.ID, second.ID); o.order() != want {
		t.Errorf("ran %s, want %s", o.order(), want)
	}
	c = o.waits(second.ID)
	if status, _ := o.says(second.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed"}`, c.Run)); status != 200 {
		t.Fatal(status)
	}
	o.committedAll("lines")
}

func TestACancelEndsWorkElsewhere(t *testing.T) {
	t.Parallel()
	o := newOutside(t, pendingAtFirst)
	task := o.task("job.out", job{})
	c := o.leaves(task)
	o.committedAll("jobs")
	if got, err := o.store().Cancel(t.Context(), task.ID); err != nil || got.State != claims.Cancelled {
		t.Fatalf("%+v %v", got, err)
	}
	for _, what := range []string{`heartbeat {"run":%d}`, `outcome {"run":%d,"outcome":"completed"}`, `outcome {"run":%d,"outcome":"dead"}`} {
		route, body, _ := strings.Cut(what, " ")
		status, answer := o.says(task.ID, route, fmt.Sprintf(body, c.Run))
		if status != 409 || !strings.Contains(fmt.Sprint(answer["detail"]), "cancelled") {
			t.Errorf("%s: %d %v", route, status, answer)
		}
	}
	o.timers()
	o.committedAll("jobs")
	if n := o.l.runsOf(task.ID); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

func TestAReportMayComeBeforeItsWorkerLetsGo(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	o := newOutside(t, func(*worker.Task[job]) error { <-hold; return worker.Pending() })
	failed, done := o.task("job.out", job{}), o.task("job.out", job{})
	o.send(failed, done)
	var c []claims.Claim
	testkit.Eventually(t, wait, func() (bool, string) {
		c = o.claims(failed.ID, done.ID)
		return c[0].State == claims.Running && c[1].State == claims.Running, fmt.Sprintf("%+v", c)
	})
	status, answer := o.says(failed.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"dead"}`, c[0].Run))
	if status != 503 || answer["type"] != "urn:perdure:problem:not-yet" {
		t.Errorf("%d %v", status, answer)
	}
	if status, answer = o.says(done.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed"}`, c[1].Run)); status != 200 {
		t.Errorf("%d %v", status, answer)
	}
	close(hold)
	o.waits(failed.ID)
	if status, answer = o.says(failed.ID, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"dead"}`, c[0].Run)); status != 200 {
		t.Errorf("%d %v", status, answer)
	}
	if l := o.lettersWithin("jobs", 1); l[0].TaskID != failed.ID {
		t.Errorf("%+v", l[0])
	}
	o.committedAll("jobs")
	if o.l.runsOf(done.ID) != 1 || o.claims(done.ID)[0].State != claims.Done {
		t.Errorf("the completed one: %+v, ran %d times", o.claims(done.ID), o.l.runsOf(done.ID))
	}
}

func TestReportsThatAreNone(t *testing.T) {
	t.Parallel()
	o := newOutside(t, pendingAtFirst)
	task := o.task("job.out", job{})
	c := o.leaves(task)
	big := strings.Repeat("x", 65<<10)
	for _, bad := range []struct {
		path, body string
		status     int
	}{
		{"main-1-999999/heartbeat", fmt.Sprintf(`{"run":%d}`, c.Run), 409},
		{"other-1-1/heartbeat", `{"run":1}`, 404},
		{"nonsense/outcome", `{"run":1,"outcome":"completed"}`, 404},
		{task.ID + "/heartbeat", `{"run":0}`, 422},
		{task.ID + "/heartbeat", `{"run":-1}`, 422},
		{task.ID + "/heartbeat", `{"run":9223372036854775807}`, 409},
		{task.ID + "/heartbeat", `{"run":"x"}`, 422},
		{task.ID + "/heartbeat", `{}`, 422},
		{task.ID + "/heartbeat", `{"run":1.5}`, 422},
		{task.ID + "/heartbeat", fmt.Sprintf(`{"run":%d,"progress":"%s"}`, c.Run, big[:5<<10]), 422},
		{task.ID + "/heartbeat", `nonsense`, 400},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d,"outcome":"fine"}`, c.Run), 422},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d}`, c.Run), 422},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed","result":"%s"}`, c.Run, big), 422},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed","error":{"message":"no"}}`, c.Run), 422},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d,"outcome":"dead","result":1}`, c.Run), 422},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed"}`, c.Run+1), 409},
		{task.ID + "/outcome", fmt.Sprintf(`{"run":%d,"outcome":"dead"}`, c.Run+1), 409},
	} {
		if status, answer := postJSON(t, o.url+"/v1/tasks/"+bad.path, bad.body); status != bad.status || answer["type"] == nil {
			t.Errorf("%s %.60s: %d %v, want %d", bad.path, bad.body, status, answer, bad.status)
		}
	}
	if now := o.claims(task.ID)[0]; now.State != claims.Waiting || now.Report != nil {
		t.Errorf("one of them counted: %+v", now)
	}
}

package worker_test

// Work that goes on elsewhere, and those who know of it are lost.

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// The worker of an ordered kind looks after the work once a second. Redis is lost
// while it looks, too.
func TestWorkElsewhereOutlivesALostRedisAtItsRecord(t *testing.T) {
	t.Parallel()
	r := testkit.OwnRedis(t)
	o := newOutside(t, pendingAtFirst, withRedis(r.Addr))
	tasks := make([]schemas.Task, 40)
	for i := range tasks {
		tasks[i] = o.task("line.out", job{N: i})
		tasks[i].Key = fmt.Sprint("k", i)
	}
	for _, task := range tasks {
		o.send(task)
		time.Sleep(25 * time.Millisecond) // so that at any time one of them is looked after
	}
	ids := make([]string, len(tasks))
	runs := make([]int64, len(tasks))
	for i := range tasks {
		ids[i], runs[i] = tasks[i].ID, o.waits(tasks[i].ID).Run
	}
	r.Flush(t)
	testkit.Eventually(t, wait, func() (bool, string) {
		n := 0
		for i, c := range o.claims(ids...) {
			if c.State == claims.Waiting && c.Elsewhere > 0 && c.Run == runs[i] {
				n++
			}
		}
		return n == len(ids), fmt.Sprintf("%d of %d are waited for again; ran %s", n, len(ids), o.order())
	})
	for i, id := range ids {
		if status, answer := o.says(id, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed"}`, runs[i])); status != 200 {
			t.Fatalf("%d %v", status, answer)
		}
	}
	o.committedAll("lines")
	for _, id := range ids {
		if n := o.l.runsOf(id); n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
	}
}

// A worker that does not know the kind sends the timer on, and as a timer: should
// Redis be lost meanwhile, a task whose effects happen once must not run again.
func TestATimerOfAnUnknownKindStaysATimer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	w.start("a", nil, ledgered(newLedger()))
	task := schemas.Task{ID: "main-1-1", Kind: "job.new", Queue: "jobs", Payload: []byte(`{}`), ContentType: "application/json", Time: time.Now().UTC(), Attempt: 2}
	headers := schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &task)
	w.sendRaw(&kgo.Record{
		Topic: w.names.Tasks("jobs"), Key: []byte(task.RecordKey()), Value: task.Payload,
		Headers: append(headers, kgo.RecordHeader{Key: schemas.HeaderTimer, Value: []byte(schemas.TimerElsewhere)}),
	})
	w.committedAll("jobs")
	recs := w.read(w.names.Retry(kafka.Tiers[0].Name))
	if len(recs) != 1 {
		t.Fatalf("%d records on tour", len(recs))
	}
	if got := headerOf(recs[0], schemas.HeaderTimer); got != schemas.TimerElsewhere {
		t.Errorf("it is no timer any more: %v", recs[0].Headers)
	}
}

// What work found is kept also where its task was given up before it said so.
func TestALateSuccessKeepsItsResult(t *testing.T) {
	t.Parallel()
	o := newOutside(t, func(*worker.Task[job]) error { return worker.Pending() })
	dead, again := o.task("job.once", job{}), o.task("job.short", job{})
	late := map[string]int64{dead.ID: o.leaves(dead).Run, again.ID: o.leaves(again).Run}
	time.Sleep(1100 * time.Millisecond) // their heartbeat_timeout
	o.timers()
	o.lettersWithin("jobs", 1)
	testkit.Eventually(t, wait, func() (bool, string) { return o.l.runsOf(again.ID) == 2, o.order() })
	for id, run := range late {
		if status, answer := o.says(id, "outcome", fmt.Sprintf(`{"run":%d,"outcome":"completed","result":%q}`, run, id)); status != 200 || answer["state"] != "completed" {
			t.Errorf("%s: %d %v", id, status, answer)
		}
	}
	found := map[string]string{}
	for _, r := range o.read(o.names.Events("jobs")) {
		if e, err := dlq.DecodeEvent(r); err == nil && e.Type == dlq.EventResult && e.Run == late[e.TaskID] {
			found[e.TaskID] += string(e.Data)
		}
	}
	for id := range late {
		if found[id] != strconv.Quote(id) {
			t.Errorf("of %s is kept %q", id, found[id])
		}
	}
}

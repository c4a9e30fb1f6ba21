package worker_test

// What a task found, while Kafka takes no events: its topic asks for more replicas
// than there are.

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/worker"
)

const resultCatalog = `
version: 1
queues:
  jobs: {partitions: 1, replication: 3}
kinds:
  job.run: {queue: jobs, timeout: 60s}
`

// refused is a world of three brokers of which one is killed, and whose topic of
// events wants all three: its producers are told to try again, for ever.
func refused(t *testing.T) *world {
	t.Helper()
	k := testkit.OwnKafka(t, 3)
	w := newWorld(t, resultCatalog, onBrokers(k))
	adm, topic, all := kadm.NewClient(w.cl), w.names.Events("jobs"), "3"
	changed, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "min.insync.replicas", Value: &all}}, topic)
	if err == nil {
		_, err = changed.On(topic, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	k.Kill(t, 2)
	testkit.Eventually(t, wait, func() (bool, string) {
		details, err := adm.ListTopics(t.Context(), topic, w.names.Tasks("jobs"))
		if err != nil {
			return false, err.Error()
		}
		for _, d := range details {
			if p := d.Partitions[0]; len(p.ISR) != 2 || p.Leader < 0 {
				return false, fmt.Sprintf("%s: %+v", d.Topic, p)
			}
		}
		return len(details) == 2, ""
	})
	return w
}

// finds starts a worker whose tasks all find something of so many bytes.
func (w *world) finds(instance string, l *ledger, size int, change func(*worker.Config)) *runningWorker {
	w.Helper()
	return w.start(instance, change, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if err := task.SetResult(strings.Repeat("x", size)); err != nil {
				return err
			}
			return l.applied(task.ID, task.Run)
		})
	})
}

// A result of MaxResult bytes of JSON is kept whole; one that is a byte longer is
// refused, and what was set before it stays.
func TestAResultIsKeptUpToItsBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, strings.Replace(resultCatalog, "replication: 3", "replication: 1", 1))
	fits := strings.Repeat("x", worker.MaxResult-len(`""`))
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			longest := fits
			if task.Payload.Mode != "fits" {
				longest += "x"
			}
			if err := task.SetResult("first"); err != nil {
				return worker.Permanent(err)
			}
			if err := task.SetResult(longest); (err == nil) != (task.Payload.Mode == "fits") {
				return worker.Permanent(fmt.Errorf("a result of %d bytes, refused: %t", len(longest)+len(`""`), err != nil))
			}
			return nil
		})
	})
	kept, refused := w.task("job.run", job{Mode: "fits"}), w.task("job.run", job{})
	w.send(kept, refused)
	w.committedAll("jobs")
	for _, l := range w.letters("jobs") {
		t.Errorf("%s died: %s", l.TaskID, l.Message)
	}
	got := map[string]string{}
	for _, r := range w.read(w.names.Events("jobs")) {
		if e, err := dlq.DecodeEvent(r); err == nil && e.Type == dlq.EventResult {
			got[e.TaskID] += string(e.Data)
		}
	}
	if got[kept.ID] != `"`+fits+`"` || got[refused.ID] != `"first"` {
		t.Errorf("results of %d bytes and %q, want %d and the one that was set first", len(got[kept.ID]), got[refused.ID], worker.MaxResult)
	}
}

func TestNoTaskIsHeldUpByATopicOfEventsThatTakesNothing(t *testing.T) {
	t.Parallel()
	w := refused(t)
	results := func() int { return len(w.read(w.names.Events("jobs"))) }

	l := newLedger()
	a := w.finds("a", l, 10, nil)
	id := w.sendJobs(1)[0]
	l.doneWithin(t, 1)
	w.committedAll("jobs") // within the patience
	if _, done, twice := l.count(); l.runsOf(id) != 1 || done != 1 || twice != 0 || w.claims(id)[0].State != claims.Done {
		t.Errorf("ran %d times, %d done, %d twice, claim %+v", l.runsOf(id), done, twice, w.claims(id)[0])
	}
	if n := a.count(t, "perdure_worker_event_errors_total", ""); n != 1 {
		t.Errorf("%v lost results are counted, want 1", n)
	}
	if n := results(); n != 0 {
		t.Errorf("the topic took %d records, and was to take none", n)
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}

	// A stop that comes before the patience is over, and is not that patient.
	b := w.finds("b", l, 10, func(cfg *worker.Config) { cfg.Grace, cfg.AbandonAfter = 200*time.Millisecond, 2*time.Second })
	id = w.sendJobs(1)[0]
	l.doneWithin(t, 2)
	if c := w.claims(id)[0]; c.State != claims.Running {
		t.Errorf("claim %+v: this is about one whose result is not taken yet", c)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	if c := w.claims(id)[0]; c.State != claims.Done {
		t.Errorf("it succeeded, and after the stop its claim is %+v", c)
	}
}

// What is lost is not kept in memory, where it would take the room of records on
// which tasks depend. The broker gives the answer that the real ones give above.
func TestResultsThatNobodyTakesAreNotKept(t *testing.T) {
	cluster, controlled := onControlled(t)
	w := newWorld(t, strings.Replace(resultCatalog, "replication: 3", "replication: 1", 1), controlled)
	topics, err := kadm.NewClient(w.cl).ListTopics(t.Context(), w.names.Events("jobs"))
	if err != nil {
		t.Fatal(err)
	}
	events := topics[w.names.Events("jobs")]
	cluster.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			if rt.Topic != events.Topic && rt.TopicID != events.ID {
				return nil, nil, false
			}
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotEnoughReplicas.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	l := newLedger()
	c := w.finds("c", l, 60<<10, nil)
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	const many = 1000
	w.sendJobs(many)
	l.doneWithin(t, many)
	w.committedAll("jobs")
	if grown := int64(heap()) - int64(before); grown > 40<<20 {
		t.Errorf("%d MiB of results that nobody takes are kept", grown>>20)
	}
	if _, done, twice := l.count(); done != many || twice != 0 {
		t.Errorf("%d done, %d twice", done, twice)
	}
	if n := c.count(t, "perdure_worker_event_errors_total", ""); n != many {
		t.Errorf("%v lost results are counted, want %d", n, many)
	}
}

package worker_test

// Which task holds a partition's low watermark.

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines(with string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, with) {
			out = append(out, line)
		}
	}
	return out
}

func TestATaskThatHoldsItsPartitionIsNamedAndStopsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	var log lockedBuffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	l := newLedger()
	release := make(chan struct{})
	w.start("a", func(c *worker.Config) { c.HeldAlarm = time.Second }, l.holding(release, isLong))
	w.sendJobs(1) // it has its partition: what comes now runs at once
	l.doneWithin(t, 1)
	long := w.task("job.run", job{Mode: "long"})
	w.send(long)
	w.sendJobs(50)
	l.doneWithin(t, 51)
	testkit.Eventually(t, wait, func() (bool, string) {
		lines := log.lines("low watermark")
		return len(lines) > 0, "nothing was said"
	})
	if lines := log.lines("low watermark"); len(lines) != 1 || !strings.Contains(lines[0], "task_id="+long.ID) || !strings.Contains(lines[0], "it runs") {
		t.Errorf("log: %s", lines)
	}
	close(release)
	w.committedAll("jobs")
}

// TestATaskWhoseLetterKafkaDoesNotTakeIsNamed: it waits in the producer, where no
// stage has it.
func TestATaskWhoseLetterKafkaDoesNotTakeIsNamed(t *testing.T) {
	t.Parallel()
	cluster, onCluster := onControlled(t)
	w := newWorld(t, onePartition, onCluster)
	mend := w.takesNothing(cluster, w.names.DLQ("jobs"))
	var log lockedBuffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	w.opts = []kgo.Opt{kgo.MetadataMinAge(50 * time.Millisecond)}
	w.start("a", func(c *worker.Config) { c.HeldAlarm = time.Second }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[job]) error { return worker.Permanent(errors.New("no")) })
	})
	id := w.sendJobs(1)[0]
	testkit.Eventually(t, wait, func() (bool, string) {
		lines := log.lines("low watermark")
		return len(lines) > 0, "nothing was said"
	})
	if lines := log.lines("low watermark"); len(lines) != 1 || !strings.Contains(lines[0], "task_id="+id) || !strings.Contains(lines[0], "is being written to "+w.names.DLQ("jobs")) {
		t.Errorf("log: %s", lines)
	}
	mend()
	w.lettersWithin("jobs", 1)
	w.committedAll("jobs")
}

// takesNothing has a topic's producers told to try again, until mend is called.
func (w *world) takesNothing(cluster *kfake.Cluster, topic string) (mend func()) {
	w.Helper()
	details, err := kadm.NewClient(w.cl).ListTopics(w.Context(), topic)
	if err != nil {
		w.Fatal(err)
	}
	id := details[topic].ID
	var mended atomic.Bool
	cluster.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		is := func(t kmsg.ProduceRequestTopic) bool { return t.Topic == topic || t.TopicID == id }
		if mended.Load() || !slices.ContainsFunc(req.Topics, is) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
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
	return func() { mended.Store(true) }
}

const stuckCatalog = `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
kinds:
  job.run: {queue: jobs, timeout: 10m}
  job.keyed: {queue: jobs, timeout: 10m, order: key}
`

// TestAStuckTaskStopsNeitherIntakeNorCommit puts ten times as much behind a stuck
// task as a worker holds at once. The bound of its intake is MaxHeld records of
// the stuck task's own key, which wait behind it; here they are half of that.
// That the rest was committed is shown by a worker that has nothing but the
// commit: Redis is flushed before it starts.
func TestAStuckTaskStopsNeitherIntakeNorCommit(t *testing.T) {
	t.Parallel()
	const maxHeld, behind, others = 200, 100, 2000
	r := testkit.OwnRedis(t)
	w := newWorld(t, stuckCatalog, withRedis(r.Addr))
	w.ttl = time.Second // whose owner is gone is in doubt soon
	l := newLedger()
	stuck := w.task("job.keyed", job{Mode: "stuck"})
	run := func(name string, wait bool) *runningWorker {
		handle := func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if wait && task.ID == stuck.ID {
				<-ctx.Done()
				return ctx.Err()
			}
			return l.applied(task.ID, task.Run)
		}
		return w.start(name, func(c *worker.Config) { c.MaxHeld, c.Grace = maxHeld, 10*time.Millisecond }, func(wk *worker.Worker) {
			worker.Handle(wk, "job.run", handle)
			worker.Handle(wk, "job.keyed", handle)
		})
	}
	a := run("a", true)
	tasks := []schemas.Task{stuck}
	for n := range behind {
		tasks = append(tasks, w.task("job.keyed", job{N: n}))
	}
	for i := range tasks {
		tasks[i].Key, tasks[i].Ordered = "k", true
	}
	w.send(tasks...)
	w.sendJobs(others)
	l.doneWithin(t, others)
	if n := l.runsOf(tasks[1].ID); n != 0 {
		t.Errorf("a task of the stuck one's key ran %d times", n)
	}
	if err := a.Stop(); err != nil { // its last commit
		t.Fatal(err)
	}
	r.Flush(t)
	run("b", false)
	l.doneWithin(t, others+1+behind)
	w.committedAll("jobs")
	again := 0
	for id := range l.runs {
		if id != stuck.ID && l.runsOf(id) > 1 {
			again++
		}
	}
	if again > 0 {
		t.Errorf("%d tasks ran again: they were complete, and not committed", again)
	}
}

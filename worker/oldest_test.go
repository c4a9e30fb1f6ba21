package worker_test

// Which task holds a partition's low watermark.

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

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
	w := newWorld(t, onePartition)
	var log lockedBuffer
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	l := newLedger()
	release := make(chan struct{})
	w.start("a", func(c *worker.Config) { c.HeldAlarm = time.Second }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(ctx context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			if task.Payload.Mode == "long" {
				select {
				case <-release:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return l.applied(task.ID, task.Run)
		})
	})
	long := w.task("job.run", job{Mode: "long"})
	w.send(long)
	w.sendJobs(50)
	l.doneWithin(t, 50)
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

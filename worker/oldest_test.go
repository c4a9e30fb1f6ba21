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

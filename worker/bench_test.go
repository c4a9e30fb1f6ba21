package worker_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

// BenchmarkNoOp is the whole worker on tasks of 1 KiB that do nothing; the
// number that counts is tasks/s.
func BenchmarkNoOp(b *testing.B) {
	w := newWorld(b, catalogText)
	payload := job{Mode: strings.Repeat("0123456789", 100)}
	for sent := 0; sent < b.N; {
		tasks := make([]schemas.Task, min(5000, b.N-sent))
		for i := range tasks {
			tasks[i] = w.task("job.run", payload)
		}
		w.send(tasks...)
		sent += len(tasks)
	}
	var done atomic.Int64
	b.ResetTimer()
	began := time.Now()
	w.start("bench", func(c *worker.Config) { c.Concurrency = 256 }, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[[]byte]) error {
			done.Add(1)
			return nil
		})
	})
	testkit.Eventually(b, 5*time.Minute, func() (bool, string) {
		return int(done.Load()) == b.N, fmt.Sprint(done.Load(), " done")
	})
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "tasks/s")
}

// Waiting for a condition, and logs that belong to a test.

package testkit

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is the least that Eventually waits: a busy machine must not look
// like a broken rule, nor a broker that stalled: a shared record whose fetch was
// cut off comes again after its lock of 30 s, and may be cut off once more. Tests
// that hold cost nothing by it.
const patience = 2 * time.Minute

// Eventually polls the condition until it holds. When the timeout, or two minutes
// if that is longer, has passed, it fails the test with what the condition said
// last. It is no stopwatch: how soon a thing happens is for benchmarks.
func Eventually(t testing.TB, timeout time.Duration, cond func() (ok bool, state string)) {
	t.Helper()
	timeout = max(timeout, patience)
	deadline := time.Now().Add(timeout)
	pause := time.Millisecond
	for {
		ok, state := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", timeout, state)
		}
		time.Sleep(pause) // the poll itself, never a wait for a thing
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// Logger writes to the test's log, at debug level. Lines that come after the
// test's end are dropped: the testing package would panic on them.
func Logger(t testing.TB) *slog.Logger {
	t.Helper()
	w := &testWriter{t: t}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct {
	mu    sync.Mutex
	t     testing.TB
	ended bool
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.t.Log(strings.TrimSuffix(string(p), "\n"))
	}
	return len(p), nil
}

func (w *testWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
}

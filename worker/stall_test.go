package worker_test

// What must not stall a kind, end a process, or give a handler up too early.

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

func TestAnExpiredTaskDoesNotUseUpTheBreakersProbe(t *testing.T) {
	t.Parallel()
	var mended atomic.Bool
	var served atomic.Int64
	url := endpoint(t, func(rw http.ResponseWriter, _ *http.Request) {
		if !mended.Load() {
			rw.WriteHeader(404)
			return
		}
		served.Add(1)
	})
	w := newWorld(t, fmt.Sprintf(httpCatalog, url))
	a := w.start("a", func(c *worker.Config) { c.Concurrency = 1 }, nil)
	w.sendJobs(1)
	testkit.Eventually(t, wait, func() (bool, string) {
		n := a.count(t, "perdure_worker_attempts_total", "misconfigured")
		return n > 0, "the breaker is not open"
	})
	late := w.task("job.run", job{})
	late.Deadline = time.Now().Add(-time.Second)
	w.send(late)
	if l := w.lettersWithin("jobs", 1)[0]; l.Reason != schemas.ReasonExpired {
		t.Errorf("letter %+v", l)
	}
	mended.Store(true)
	testkit.Eventually(t, wait, func() (bool, string) { return served.Load() == 1, "nothing runs at an endpoint that is mended" })
	w.committedAll("jobs")
}

// rude is a payload whose decoder panics.
type rude struct{}

func (*rude) UnmarshalJSON([]byte) error { panic("I do not decode") }

func TestAPayloadsDecoderThatPanicsIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText)
	w.start("a", nil, func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(context.Context, *worker.Task[rude]) error { return nil })
	})
	w.sendJobs(1)
	l := w.lettersWithin("jobs", 1)[0]
	if l.Reason != schemas.ReasonExhausted || l.ErrorClass != "panic" || !strings.Contains(l.Message, "I do not decode") {
		t.Errorf("letter %+v", l)
	}
}

func TestASuspendedProcessGivesItsHandlersTheirGrace(t *testing.T) {
	t.Parallel()
	catalog := strings.NewReplacer("timeout: 2s", "timeout: 500ms", "max_attempts: 3", "max_attempts: 1").Replace(catalogText)
	w := newWorld(t, catalog)
	l := newLedger()
	url := w.effects(l, func(string) bool { return false })
	cmd := w.spawn("victim", catalog, url, func(v *victim) { v.AbandonAfter = time.Second })
	task := w.task("job.run", job{Mode: "tidy up"})
	w.send(task)
	testkit.Eventually(t, wait, func() (bool, string) { return l.runsOf(task.ID) == 1, "not started" })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-time.After(2500 * time.Millisecond) // longer than timeout and grace together
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if letter := w.lettersWithin("jobs", 1)[0]; !strings.Contains(letter.ErrorClass, "timeout") {
		t.Errorf("class %q, message %q: want its own timeout", letter.ErrorClass, letter.Message)
	}
}

package worker_test

// Handlers that ignore the end of their context.

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/exit"
)

// TestAWorkerWhoseHandlersAreDeafEndsItself: below the bound the slots of
// abandoned handlers are used again; at it nothing starts, and the process ends.
func TestAWorkerWhoseHandlersAreDeafEndsItself(t *testing.T) {
	t.Parallel()
	catalog := strings.NewReplacer("timeout: 2s", "timeout: 500ms", "max_attempts: 3", "max_attempts: 1").Replace(catalogText)
	w := newWorld(t, catalog)
	l := newLedger()
	url := w.effects(l, func(string) bool { return false })
	var said bytes.Buffer
	cmd := w.command("victim", catalog, url, func(v *victim) { v.AbandonAfter = 200 * time.Millisecond })
	cmd.Stderr = &said
	w.run(cmd)
	deaf := func(n int) {
		for range n {
			w.send(w.task("job.run", job{Mode: "deaf"}))
		}
	}
	const slots, bound = 8, 4
	deaf(bound - 1)
	w.lettersWithin("jobs", bound-1) // each was abandoned
	w.sendJobs(50)
	l.doneWithin(t, bound-1+50)

	deaf(slots)
	l.doneWithin(t, bound-1+50+slots) // all of them run, in all of its slots
	others := w.sendJobs(100)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if want := fmt.Sprintf("exit status %d", exit.Again); err == nil || err.Error() != want {
			t.Errorf("it ended with %v, want %s", err, want)
		}
	case <-time.After(wait):
		t.Fatal("it goes on")
	}
	if text := said.String(); !strings.Contains(text, "of job.run): they ignore the end of their context") {
		t.Errorf("it said: %s", text)
	}
	for _, id := range others {
		if n := l.runsOf(id); n != 0 {
			t.Errorf("%s was started %d times by a worker whose handlers are deaf", id, n)
		}
	}

	w.start("victim", nil, ledgered(l))
	l.doneWithin(t, bound-1+50+slots+len(others))
	w.committedAll("jobs")
	if n := len(w.letters("jobs")); n != bound-1+slots {
		t.Errorf("%d letters, want one for each deaf handler's task", n)
	}
}

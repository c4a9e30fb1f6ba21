package worker_test

// start_within: how late a task's first attempt may begin.

import (
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
)

const startWithinCatalog = `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
kinds:
  job.run:
    queue: jobs
    timeout: 60s
    start_within: 30s
    retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}
`

func TestATaskThatCouldNotBeginInTimeDies(t *testing.T) {
	w := newWorld(t, startWithinCatalog)
	l := newLedger()
	now := time.Now()
	late, inTime, scheduled, again := w.task("job.run", job{}), w.task("job.run", job{}), w.task("job.run", job{}), w.task("job.run", job{})
	late.Time = now.Add(-31 * time.Second)
	scheduled.Time, scheduled.Due = now.Add(-24*time.Hour), now.Add(-time.Second) // its time is when it was due
	again.Time, again.Attempt, again.Run = now.Add(-time.Hour), 2, 1              // it began, and failed
	w.send(late, inTime, scheduled, again)
	w.start("a", nil, ledgered(l))
	l.doneWithin(t, 3)
	w.committedAll("jobs")
	letters := w.letters("jobs")
	if len(letters) != 1 {
		t.Fatalf("%d letters, want one", len(letters))
	}
	letter := letters[0]
	want := "no attempt began within 30s of " + late.Time.UTC().Format(time.RFC3339)
	if letter.TaskID != late.ID || letter.Reason != schemas.ReasonExpired || !strings.Contains(letter.Message, want) {
		t.Errorf("letter %+v", letter)
	}
	if n := l.runsOf(late.ID); n != 0 {
		t.Errorf("it ran %d times", n)
	}
}

// TestATaskThatBeganMayGoOnPastItsLimit: its worker died. That worker's catalog has
// no limit, so that it begins in time however slow the machine is.
func TestATaskThatBeganMayGoOnPastItsLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, startWithinCatalog)
	w.ttl = time.Second
	l := newLedger()
	victim := w.spawn("victim", strings.Replace(startWithinCatalog, "start_within: 30s", "", 1), w.effects(l, func(string) bool { return false }))
	crashed := w.task("job.run", job{Mode: "kill"})
	crashed.Time = time.Now().Add(-time.Hour)
	w.send(crashed)
	if err := victim.Wait(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("the victim ended with %v", err)
	}
	w.start("b", nil, ledgered(l))
	w.committedAll("jobs")
	if letters := w.letters("jobs"); len(letters) != 0 || l.runsOf(crashed.ID) != 2 {
		t.Errorf("it ran %d times, want twice; letters %+v", l.runsOf(crashed.ID), letters)
	}
}

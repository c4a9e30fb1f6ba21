package worker_test

// How long a killed worker's tasks wait. The bounds asserted are generous, for a
// busy machine; what was measured on a quiet one stands in docs/performance.md.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

const (
	// takeOverBound is what a kill may cost on any machine that runs the tests.
	takeOverBound = 30 * time.Second
	// longSession is how long Kafka waits before it acts alone, where a test is to
	// see that others act.
	longSession = 5 * time.Minute
)

// inTime checks what a take-over cost.
func (f *fleet) inTime(took time.Duration) time.Duration {
	f.Helper()
	if took > takeOverBound {
		f.Errorf("it took %v, want at most %v", took, takeOverBound)
	}
	return took
}

// kills is how many there are in a test; PERDURE_TEST_KILLS for a measurement.
func kills(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("PERDURE_TEST_KILLS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("PERDURE_TEST_KILLS: %v", err)
	}
	return n
}

// inFlight is what a process had begun and not finished at the end of notes.
func inFlight(notes []note, pid int) map[string]bool {
	open := map[string]bool{}
	for _, n := range notes {
		switch {
		case n.PID == pid && n.What == "began":
			open[n.ID] = true
		case n.What == "applied":
			delete(open, n.ID)
		}
	}
	return open
}

// owners is which process last began a task of each partition.
func owners(notes []note) map[int32]int {
	o := map[int32]int{}
	for _, n := range notes {
		if n.What == "began" {
			o[n.Partition] = n.PID
		}
	}
	return o
}

// begunAgain waits until each task of open has begun in another process, and
// returns when the last did.
func (f *fleet) begunAgain(open map[string]bool, from, not int) (last time.Time) {
	f.Helper()
	testkit.Eventually(f, wait, func() (bool, string) {
		left := len(open)
		seen := map[string]bool{}
		for _, n := range f.ledger.since(from) {
			if n.What == "began" && n.PID != not && open[n.ID] && !seen[n.ID] {
				seen[n.ID], last = true, n.At
				left--
			}
		}
		var some string
		for id := range open {
			if !seen[id] {
				some = fmt.Sprintf("%s: %+v", id, f.claims(id)[0])
			}
		}
		return left == 0, fmt.Sprintf("%d of %d tasks have not run elsewhere; %s", left, len(open), some)
	})
	return last
}

// ended waits until each task of open has its effect: a task whose workers are
// killed three times in a row would rightly die of poison.
func (f *fleet) ended(open map[string]bool) {
	f.Helper()
	testkit.Eventually(f, wait, func() (bool, string) {
		f.ledger.mu.Lock()
		defer f.ledger.mu.Unlock()
		for id := range open {
			if !f.ledger.applied[id] {
				return false, id + " has no effect"
			}
		}
		return true, ""
	})
}

// stall is the longest time between two starts in any partition whose owner lived.
func stall(notes []note, owner map[int32]int, killed int, from time.Time) (longest time.Duration) {
	last := map[int32]time.Time{}
	for _, n := range notes {
		if n.What != "began" || owner[n.Partition] == killed {
			continue
		}
		if was, ok := last[n.Partition]; ok && n.At.After(from) {
			longest = max(longest, n.At.Sub(was))
		}
		last[n.Partition] = n.At
	}
	return longest
}

func distribution(ds []time.Duration) string {
	slices.Sort(ds)
	at := func(q float64) time.Duration {
		return ds[min(int(q*float64(len(ds))), len(ds)-1)].Round(time.Millisecond)
	}
	return fmt.Sprintf("n %d, min %v, median %v, 19 of 20 %v, max %v", len(ds), at(0), at(0.5), at(0.9), at(1))
}

// TestAKilledWorkersTasksRunElsewhereSoon kills random workers under load and
// measures until everything that they had begun has begun elsewhere, and how
// long the partitions of the living stood still meanwhile.
func TestAKilledWorkersTasksRunElsewhereSoon(t *testing.T) {
	f := newFleet(t)
	f.session = longSession
	men := make([]*man, 3)
	for i := range men {
		men[i] = f.hire(fmt.Sprintf("w%d", i), true)
	}
	stop := f.feeding(25*time.Millisecond, 100)
	for _, m := range men {
		m.runs()
	}
	var took, stalls, calm []time.Duration
	for range kills(t, 4) {
		i := rand.IntN(len(men))
		pid := men[i].cmd.Process.Pid
		f.busy(pid)
		mark := f.ledger.len()
		calmFrom := time.Now().Add(-time.Second)
		men[i].signal(syscall.SIGKILL)
		killed := time.Now()
		<-men[i].died
		before := f.ledger.since(0)
		owner := owners(before)
		open := inFlight(before, pid)
		took = append(took, f.inTime(f.begunAgain(open, mark, pid).Sub(killed)))
		all := f.ledger.since(0)
		stalls = append(stalls, stall(all, owner, pid, killed))
		calm = append(calm, stall(before, owner, pid, calmFrom))
		f.ended(open)
		men[i] = f.hire(men[i].name, true)
		men[i].runs()
		f.calm()
	}
	stop()
	f.finish(wait)
	t.Logf("until the last of its tasks ran elsewhere: %s", distribution(took))
	t.Logf("longest stall of the others' partitions: %s", distribution(stalls))
	t.Logf("the same, in the second before each kill: %s", distribution(calm))
}

// calm waits until every partition has begun a task in the last 150 ms and its
// owner has not changed for a second: no rebalance is under way.
func (f *fleet) calm() {
	f.Helper()
	testkit.Eventually(f, wait, func() (bool, string) {
		now := time.Now()
		latest, owner := map[int32]time.Time{}, map[int32]int{}
		for _, n := range f.ledger.since(0) {
			if n.What != "began" {
				continue
			}
			if was, ok := owner[n.Partition]; ok && was != n.PID && now.Sub(n.At) < 1200*time.Millisecond {
				return false, fmt.Sprintf("partition %d has moved just now", n.Partition)
			}
			owner[n.Partition], latest[n.Partition] = n.PID, n.At
		}
		for p := range int32(fleetPartitions) {
			if now.Sub(latest[p]) > 150*time.Millisecond {
				return false, fmt.Sprintf("partition %d stands still", p)
			}
		}
		return true, ""
	})
}

// busy waits until a process has something in flight.
func (f *fleet) busy(pid int) {
	f.Helper()
	testkit.Eventually(f, wait, func() (bool, string) {
		return len(inFlight(f.ledger.since(0), pid)) > 0, "nothing is in flight"
	})
}

// TestARestartedWorkerTakesOverItsOwn kills a worker and starts it again at once
// under its name: static membership gives it its partitions back without a
// rebalance, and what its predecessor ran is in doubt at once.
func TestARestartedWorkerTakesOverItsOwn(t *testing.T) {
	f := newFleet(t)
	f.session = longSession
	men := []*man{f.hire("w0", true), f.hire("w1", true)}
	stop := f.feeding(25*time.Millisecond, 100)
	for _, m := range men {
		m.runs()
	}
	var took []time.Duration
	elsewhere := 0
	for range kills(t, 3) {
		pid := men[0].cmd.Process.Pid
		f.busy(pid)
		mark := f.ledger.len()
		men[0].signal(syscall.SIGKILL)
		<-men[0].died
		open := inFlight(f.ledger.since(0), pid)
		began := time.Now()
		men[0] = f.hire("w0", true)
		took = append(took, f.inTime(f.begunAgain(open, mark, pid).Sub(began)))
		for _, n := range f.ledger.since(mark) {
			if n.What == "began" && open[n.ID] && n.PID == men[1].cmd.Process.Pid {
				elsewhere++
			}
		}
		f.ended(open)
		f.calm() // its backlog too: what is killed again and again is poison
	}
	stop()
	f.finish(wait)
	t.Logf("from exec until the last of its predecessor's tasks ran again: %s; %d of them ran elsewhere", distribution(took), elsewhere)
}

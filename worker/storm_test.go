package worker_test

// Joins and leaves without end, and then the ledger. The long run of the same is
// in soak_test.go.

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

func TestARebalanceStormLosesNothing(t *testing.T) {
	rebalanceStorm(t, 6, 9*time.Second, 5*time.Second)
}

// pause lets the fleet be for d: the faults of a test are as far apart as it says.
func (f *fleet) pause(d time.Duration) {
	f.Helper()
	end := time.Now().Add(d)
	testkit.Eventually(f, d+wait, func() (bool, string) { return time.Now().After(end), "pause" })
}

// rebalanceStorm lets guests join and leave under load. A leave is orderly, so
// nothing may run twice; the longest gap between completions may be so much longer
// than in an equal time without guests.
func rebalanceStorm(t *testing.T, moves int, length, more time.Duration) {
	f := newFleet(t)
	f.hire("steady", true).joins(f)
	stop := f.feeding(50*time.Millisecond, 20)
	f.pause(2 * time.Second)
	quietFrom, quietAt := f.ledger.len(), time.Now()
	f.pause(length)
	stormFrom, stormAt := f.ledger.len(), time.Now()
	var guests []*man
	for i := range moves {
		if len(guests) > 0 && (len(guests) == 3 || i%2 == 1) {
			g := guests[0]
			guests = guests[1:]
			g.signal(syscall.SIGTERM)
		} else {
			guests = append(guests, f.hire(fmt.Sprintf("guest-%d", i), true))
		}
		f.pause(length / time.Duration(moves))
	}
	notes, end := f.ledger.since(0), time.Now()
	stop()
	f.finish(wait)
	if c := check(f.sent, f.ledger.since(0)); c.reruns > 0 {
		t.Errorf("%d re-runs, though every leave was orderly", c.reruns)
	}
	calm := longestGap(notes[quietFrom:stormFrom], quietAt, stormAt)
	storm := longestGap(notes[stormFrom:], stormAt, end)
	t.Logf("longest time between two completions: %v without guests, %v in the storm", calm.Round(time.Millisecond), storm.Round(time.Millisecond))
	if storm > calm+more {
		t.Errorf("the storm held everything up for %v, want at most %v more than %v", storm, more, calm)
	}
}

// joins waits until the process is a member, with nothing to run yet.
func (m *man) joins(f *fleet) {
	m.Helper()
	testkit.Eventually(m, wait, func() (bool, string) { return f.members()[m.name] != "", "not a member yet" })
}

// longestGap is the longest time without a completion between from and end.
func longestGap(notes []note, from, end time.Time) (longest time.Duration) {
	for _, n := range notes {
		if n.What == "applied" {
			longest, from = max(longest, n.At.Sub(from)), n.At
		}
	}
	return max(longest, end.Sub(from))
}

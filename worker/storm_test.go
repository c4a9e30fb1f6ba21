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

func TestARebalanceStormLosesNothing(t *testing.T) { rebalanceStorm(t, 6, 9*time.Second) }

// pause lets the fleet be for d: the faults of a test are as far apart as it says.
func (f *fleet) pause(d time.Duration) {
	f.Helper()
	end := time.Now().Add(d)
	testkit.Eventually(f, d+wait, func() (bool, string) { return time.Now().After(end), "pause" })
}

// rebalanceStorm lets guests join and leave under load. A leave is orderly, so
// nothing may run twice; the longest gap between completions is told beside that
// of an equal time without guests.
func rebalanceStorm(t *testing.T, moves int, length time.Duration) {
	f := newFleet(t)
	f.hire("steady", true).joins(f)
	stop := f.feeding(50*time.Millisecond, 20)
	f.pause(2 * time.Second)
	quietFrom := f.ledger.len()
	f.pause(length)
	stormFrom := f.ledger.len()
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
	notes := f.ledger.since(0)
	stop()
	f.finish(wait)
	if c := check(f.sent, f.ledger.since(0)); c.reruns > 0 {
		t.Errorf("%d re-runs, though every leave was orderly", c.reruns)
	}
	calm, storm := longestGap(notes[quietFrom:stormFrom]), longestGap(notes[stormFrom:])
	t.Logf("longest time between two completions: %v without guests, %v in the storm", calm.Round(time.Millisecond), storm.Round(time.Millisecond))
	if storm > calm+5*time.Second {
		t.Errorf("the storm held everything up for %v", storm)
	}
}

// joins waits until the process is a member, with nothing to run yet.
func (m *man) joins(f *fleet) {
	m.Helper()
	testkit.Eventually(m, wait, func() (bool, string) { return f.members()[m.name] != "", "not a member yet" })
}

func longestGap(notes []note) (longest time.Duration) {
	var last time.Time
	for _, n := range notes {
		if n.What != "applied" {
			continue
		}
		if !last.IsZero() {
			longest = max(longest, n.At.Sub(last))
		}
		last = n.At
	}
	return longest
}

package worker_test

// Several workers that die together, as on a host that is lost.

import (
	"fmt"
	"maps"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// TestWorkersKilledTogetherAreRemoved kills two workers of five 0.1 s apart. By
// Kafka alone their partitions would move after their session of five minutes:
// that all tasks run elsewhere shows that the others removed both.
func TestWorkersKilledTogetherAreRemoved(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.session = 5 * time.Minute
	var took []time.Duration
	for round := range kills(t, 1) {
		men := make([]*man, 5)
		for i := range men {
			men[i] = f.hire(fmt.Sprintf("r%dw%d", round, i), true)
		}
		stop := f.feeding(50*time.Millisecond, 100)
		// Six partitions among five: each has one at least.
		for _, m := range men {
			m.runs()
		}
		for _, m := range men[:2] {
			f.busy(m.cmd.Process.Pid)
		}
		killed := time.Now()
		for i, m := range men[:2] {
			f.pause(time.Duration(i) * 100 * time.Millisecond)
			m.signal(syscall.SIGKILL)
		}
		for _, m := range men[:2] {
			<-m.died
		}
		before := f.ledger.since(0)
		mark := len(before)
		open := inFlight(before, men[0].cmd.Process.Pid)
		maps.Copy(open, inFlight(before, men[1].cmd.Process.Pid))
		last := f.begunAgain(open, mark, men[0].cmd.Process.Pid)
		testkit.Eventually(f, wait, func() (bool, string) {
			m := f.members()
			return m[men[0].name] == "" && m[men[1].name] == "", "the killed are still members"
		})
		took = append(took, last.Sub(killed))
		stop()
		f.caughtUp()
		for _, m := range men[2:] {
			m.signal(syscall.SIGTERM)
			<-m.died
		}
	}
	t.Logf("until the last of two workers' tasks ran elsewhere: %s", distribution(took))
}

package loadtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// Two databases, a relay for each, one Kafka and one pool of workers: the tasks of
// both have the same numbers, and none is taken for another. Checks I1 and I2.
func TestTwoSourcesOfOnePool(t *testing.T) {
	t.Parallel()
	const each = 1_000
	f := newFleet(t, &Ledger{}, patient)
	f.env = append(f.env, "PERDURE_SOURCE=north")
	south := *f
	south.DB = testkit.Postgres(t).URL
	south.api = "http://" + testkit.FreeAddr(t)
	south.env = append(append([]string(nil), f.env...), "PERDURE_SOURCE=south", "PERDURE_POSTGRES_URL="+south.DB, "PERDURE_API_URL="+south.api)
	f.DB = testkit.Postgres(t).URL // the fleet's own belongs to the source main
	f.env = append(f.env, "PERDURE_POSTGRES_URL="+f.DB)
	sources := []*fleet{f, &south}
	for i, s := range sources {
		s.run("migrate", "up")
		for _, name := range []string{"dispatcher", "relay", "replayer"} {
			s.start(name, []string{"north", "south"}[i])
		}
	}
	workers := []*role{f.start("worker", "a"), f.start("worker", "b")}
	for i, s := range sources {
		enqueueSQL(t, connect(t, s.DB), i*each, each)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		n := f.Ledger.Summary().Tasks
		return n > each/2, fmt.Sprintf("%d tasks ran", n)
	})
	workers[0].kill() // what it held is told apart too
	for _, s := range sources {
		testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
			b := s.balance()
			return b.Accepted == each && b.Completed == each && b.Lost == 0 && b.Dead == 0, fmt.Sprintf("balance: %+v; ledger %+v", b, f.Ledger.Summary())
		})
	}
	s := f.Ledger.Summary()
	if s.Tasks != 2*each || s.Bodies != 2*each {
		t.Errorf("ledger %+v, want %d tasks", s, 2*each)
	}
	of := map[string]int{}
	for id, deliveries := range f.Ledger.All() {
		source, _, _ := strings.Cut(id, "-")
		of[source]++
		for i := 1; i < len(deliveries); i++ { // the killed worker's may run again, and are told by their fence
			if deliveries[i].Fence <= deliveries[i-1].Fence {
				t.Errorf("%s ran again under fence %d after %d", id, deliveries[i].Fence, deliveries[i-1].Fence)
			}
		}
	}
	if of["north"] != each || of["south"] != each {
		t.Errorf("tasks by source: %v", of)
	}
}

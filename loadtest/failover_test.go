package loadtest

// The whole path while the Redis that holds the claims is replaced.

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// The master behind a sentinel is killed while tasks run: nothing is lost, the
// workers find the replica, and what runs again does so under a higher fence.
func TestSentinelFailoverLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 3_000
	s := testkit.NewRedisSentinel(t)
	ledger := &Ledger{Answer: func(string, int) int { time.Sleep(5 * time.Millisecond); return http.StatusNoContent }}
	f := newFleet(t, ledger, patient)
	f.env = append(f.env, "PERDURE_REDIS_ADDRS="+s.Sentinel.Addr, "PERDURE_REDIS_MASTER_NAME="+s.Name)
	for _, name := range []string{"dispatcher", "relay", "replayer"} {
		f.start(name, "1")
	}
	workers := []*role{f.start("worker", "a"), f.start("worker", "b")}
	f.run("enqueue", "-f", f.write("rows.ndjson", ndjson(n, 100)))
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		s := ledger.Summary()
		return s.Tasks > n/10, fmt.Sprintf("%+v before the failover", s)
	})
	s.Master.Kill(t)
	killed := time.Now()
	if at := ledger.Summary().Tasks; at >= n {
		t.Fatalf("all %d tasks had run before the master was killed", at)
	}
	testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
		b := f.balance()
		return b.Completed == n && b.Accepted == n && b.Lost == 0 && b.Dead == 0, fmt.Sprintf("balance: %+v", b)
	})
	t.Logf("all done %v after the master was killed", time.Since(killed).Round(time.Millisecond))
	for _, w := range workers {
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			code, body := get(w.addr, "/readyz")
			return code == http.StatusOK, fmt.Sprintf("%s: %d %s", w.name, code, body)
		})
	}
	sum := ledger.Summary()
	if sum.Tasks != n || sum.Bodies != n {
		t.Errorf("ledger %+v, want %d tasks", sum, n)
	}
	// What ran in the last moments may run again; it is told by its fence.
	for id, deliveries := range ledger.All() {
		for i := 1; i < len(deliveries); i++ {
			if deliveries[i].Fence <= deliveries[i-1].Fence {
				t.Errorf("%s ran again under fence %d after %d", id, deliveries[i].Fence, deliveries[i-1].Fence)
			}
		}
	}
	t.Logf("%+v", sum)
}

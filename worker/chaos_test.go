package worker_test

// Chaos: workers, brokers and Redis are killed, paused and replaced under load,
// in random order, and then the history is checked. The long run of the same is
// in soak_test.go.

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/internal/testkit"
)

// TestChaos lets every fault happen once. Checks I1 to I4 and I9.
func TestChaos(t *testing.T) {
	t.Parallel()
	chaos(t, 0)
}

// seed of the faults' order: PERDURE_TEST_SEED, else a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("PERDURE_TEST_SEED")
	if text == "" {
		return rand.Uint64()
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("PERDURE_TEST_SEED: %v", err)
	}
	return n
}

// chaos lets all faults happen in random order, again until length has passed,
// then lets the rest be done and checks the history.
func chaos(t *testing.T, length time.Duration) {
	n := seed(t)
	t.Logf("PERDURE_TEST_SEED=%d", n)
	began := time.Now()
	b := newBattered(t, 4, n)
	t.Logf("servers: %v", time.Since(began).Round(time.Second))
	stop := b.feeding(60*time.Millisecond, 30)
	for _, m := range b.men {
		m.runs()
	}
	rounds := 0
	for end := time.Now().Add(length); rounds == 0 || time.Now().Before(end); rounds++ {
		server := b.random.Perm(len(serverFaults))
		for k, i := range b.random.Perm(len(workerFaults)) {
			b.suffer(workerFaults[i])
			// Servers' faults spread evenly among the workers'.
			for len(server) > 0 && len(server)*len(workerFaults) >= len(serverFaults)*(len(workerFaults)-k) {
				b.caughtUp()
				b.suffer(serverFaults[server[0]])
				b.caughtUp()
				server = server[1:]
			}
		}
		b.checkSoFar()
	}
	stop()
	b.caughtUp()
	b.noteDead()
	b.finish(60 * time.Second)
	t.Logf("%d rounds of %d faults", rounds, len(workerFaults)+len(serverFaults))
}

// caughtUp waits until everything that had been produced when it was called is
// done and committed.
func (f *fleet) caughtUp() {
	f.Helper()
	adm := kadm.NewClient(f.cl)
	var ends kadm.ListedOffsets
	testkit.Eventually(f, 2*wait, func() (bool, string) {
		if ends == nil {
			got, err := adm.ListEndOffsets(f.Context(), f.names.Tasks("jobs"))
			if err == nil {
				err = got.Error()
			}
			if err != nil {
				return false, err.Error()
			}
			ends = got
		}
		got, err := adm.FetchOffsets(f.Context(), f.names.WorkerGroup("jobs"))
		if err != nil {
			return false, err.Error()
		}
		behind := ""
		ends.Each(func(o kadm.ListedOffset) {
			if c, _ := got.Lookup(o.Topic, o.Partition); c.At < o.Offset {
				behind += fmt.Sprintf("partition %d at %d of %d ", o.Partition, c.At, o.Offset)
			}
		})
		return behind == "", behind
	})
}

// checkSoFar ends a long run at its first violation, while the logs are short.
// What has no effect yet may still get one.
func (f *fleet) checkSoFar() {
	f.Helper()
	f.sentMu.Lock()
	sent := maps.Clone(f.sent)
	f.sentMu.Unlock()
	for _, v := range check(sent, f.ledger.since(0)).violations {
		if !strings.HasPrefix(v, "lost") {
			f.Fatal(v)
		}
	}
}

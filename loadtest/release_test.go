package loadtest

// A policy that waits for the release with the mend, on the path that an operator has:
// processes that are told their release, and a catalog.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/replayer"
)

func TestAPolicyRepairsOnceTheMendIsRolledOut(t *testing.T) {
	const n = 20
	var mended atomic.Bool
	f := newFleet(t, &Ledger{Answer: func(string, int) int {
		if mended.Load() {
			return 204
		}
		return 400
	}}, patient)
	catalog, err := os.ReadFile(filepath.Join(f.dir, "catalog.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f.write("catalog.yaml", string(catalog)+"policies: {mend: {when: {kind: load.step}, wait_for: {quiet: 10ms, release: newer}}}\n")
	for _, name := range []string{"dispatcher", "relay", "replayer"} {
		f.start(name, "1")
	}
	old := f.start("worker", "1", "PERDURE_RELEASE=v1")
	f.run("enqueue", "-f", f.write("rows.ndjson", ndjson(n, 1)))
	waits := func(why string) {
		t.Helper()
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			var v replayer.PolicyView
			said := f.run("policy", "test", "mend", "-o", "json")
			if err := json.Unmarshal([]byte(said), &v); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			return len(v.Groups) == 1 && v.Groups[0].Letters == n && strings.Contains(v.Groups[0].Waits, why), said
		})
	}
	waits("worker worker-1 still runs release v1, in which letters of it died")
	f.start("worker", "2", "PERDURE_RELEASE=v2") // the roll-out begins ...
	mended.Store(true)
	waits("worker worker-1 still runs release v1")
	if text := f.run("policy", "test", "mend"); !strings.Contains(text, "still runs release v1") {
		t.Errorf("a person reads %s", text)
	}
	if s := f.Ledger.Summary(); s.Deliveries != n {
		t.Errorf("%+v: it acted before", s)
	}
	old.signal(syscall.SIGTERM) // ... and ends
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		s := f.Ledger.Summary()
		return s.Bodies == n, fmt.Sprintf("%+v, %s", s, f.run("policy", "test", "mend"))
	})
	want := Summary{Tasks: n, Deliveries: 2 * n, Applied: n, Bodies: n}
	if got := f.Ledger.Summary(); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
}

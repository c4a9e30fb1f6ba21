package loadtest

// The whole path, from a file to a downstream's ledger, with the roles as
// separate processes, and what kill -9 does to it. Checks I1, I2 and I3.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

const patient = "max_attempts: 20, initial_delay: 50ms, max_delay: 2s"

// rows is how many lines the file has: PERDURE_TEST_ROWS, else 10,000.
func rows(t *testing.T) int {
	text := os.Getenv("PERDURE_TEST_ROWS")
	if text == "" {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 100 {
		t.Fatalf("PERDURE_TEST_ROWS=%q: want a number from 100", text)
	}
	return n
}

func ndjson(n int, pad int) string {
	var b strings.Builder
	filler := strings.Repeat("x", pad)
	for i := range n {
		fmt.Fprintf(&b, "{\"kind\":\"load.step\",\"payload\":{\"row\":%d,\"pad\":%q}}\n", i, filler)
	}
	return b.String()
}

// Every row of a file reaches the endpoint once, also when `enqueue` is killed
// in the middle and run again, and `enqueue` does not hold the file in memory.
func TestEveryRowOfAFileRunsOnce(t *testing.T) {
	n := rows(t)
	f := newFleet(t, &Ledger{}, patient)
	for _, name := range []string{"dispatcher", "relay", "worker", "replayer"} {
		f.start(name, "1")
	}
	file := f.write("rows.ndjson", ndjson(n, 900))

	began := time.Now()
	first := f.command("enqueue", "-f", file)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return f.Ledger.Summary().Tasks > 0, "nothing has run yet"
	})
	_ = first.Process.Kill()
	_ = first.Wait() // killed, or, on a fast machine, done

	again := f.command("enqueue", "-f", file, "-o", "json")
	var out, stderr bytes.Buffer
	again.Stdout, again.Stderr = &out, &stderr
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	peak := peakMemory(again.Process.Pid)
	if err := again.Wait(); err != nil {
		t.Fatalf("enqueue again: %v %s", err, stderr.String())
	}
	var said map[string]any
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	t.Logf("enqueue said %s", out.String())

	testkit.Eventually(t, 5*time.Minute, func() (bool, string) {
		s := f.Ledger.Summary()
		return s.Tasks >= n, fmt.Sprintf("%+v, want %d tasks", s, n)
	})
	took := time.Since(began)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		b := f.balance()
		return b.Completed == int64(n), fmt.Sprintf("balance: %+v", b)
	})
	if b := f.balance(); b.Accepted != int64(n) || b.Lost != 0 || b.Dead != 0 || b.Waiting != 0 {
		t.Errorf("balance %+v, want %d accepted and completed", b, n)
	}
	want := Summary{Tasks: n, Deliveries: n, Applied: n, Bodies: n}
	if got := f.Ledger.Summary(); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
	mib := <-peak
	t.Logf("%d rows in %v, %.0f/s; peak memory of enqueue %d MiB", n, took.Round(time.Millisecond),
		float64(n)/took.Seconds(), mib)
	if mib == 0 || mib >= 100 {
		t.Errorf("enqueue peaked at %d MiB, want under 100", mib)
	}
}

// peakMemory watches a process until it ends and then gives its peak in MiB.
// rusage would not do: it counts the parent's memory at the moment of the fork.
func peakMemory(pid int) <-chan int {
	answer := make(chan int, 1)
	go func() {
		peak := 0
		for {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, line, found := strings.Cut(string(status), "VmHWM:")
			if err != nil || !found { // it has ended
				answer <- peak
				return
			}
			kib, err := strconv.Atoi(strings.Fields(line)[0])
			if err == nil {
				peak = max(peak, kib>>10)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return answer
}

// The active relay is killed again and again while tasks arrive: what it had
// produced and not noted is produced again, and not run again.
func TestKilledRelayLosesAndRepeatsNothing(t *testing.T) {
	const n = 6_000
	f := newFleet(t, &Ledger{}, patient)
	f.start("dispatcher", "1")
	f.start("worker", "1")
	f.start("replayer", "1")
	relays := [2]*role{f.start("relay", "a"), f.start("relay", "b")}
	file := f.write("rows.ndjson", ndjson(n, 100))
	enqueue := f.command("enqueue", "-f", file)
	if err := enqueue.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		at := f.Ledger.Summary().Tasks
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			now := f.Ledger.Summary().Tasks
			return now > at || now == n, fmt.Sprintf("stuck at %d tasks after %d kills", now, i)
		})
		relays[i%2].kill()
		relays[i%2] = f.start("relay", fmt.Sprint("again-", i))
	}
	if err := enqueue.Wait(); err != nil {
		t.Fatalf("enqueue: %v", err)
	}
	testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
		b := f.balance()
		return b.Completed == n, fmt.Sprintf("balance: %+v", b)
	})
	want := Summary{Tasks: n, Deliveries: n, Applied: n, Bodies: n}
	if got := f.Ledger.Summary(); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
}

// Workers are killed while they run tasks: every task is applied, and what ran
// again did so under a higher fence only.
func TestKilledWorkersLoseNothing(t *testing.T) {
	const n = 3_000
	ledger := &Ledger{Answer: func(string, int) int { time.Sleep(5 * time.Millisecond); return 204 }}
	f := newFleet(t, ledger, patient)
	for _, name := range []string{"dispatcher", "relay", "replayer"} {
		f.start(name, "1")
	}
	workers := []*role{f.start("worker", "a"), f.start("worker", "b")}
	f.run("enqueue", "-f", f.write("rows.ndjson", ndjson(n, 100)))
	for i := range 3 {
		at := ledger.Summary().Tasks
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			now := ledger.Summary().Tasks
			return now >= min(at+n/10, n), fmt.Sprintf("stuck at %d tasks after %d kills", now, i)
		})
		workers[i%2].kill()
		workers[i%2] = f.start("worker", string(rune('a'+i%2))) // the same instance comes back
	}
	testkit.Eventually(t, 2*time.Minute, func() (bool, string) {
		b := f.balance()
		return b.Completed == n, fmt.Sprintf("balance: %+v", b)
	})
	if b := f.balance(); b.Lost != 0 || b.Dead != 0 || b.Accepted != n {
		t.Errorf("balance %+v", b)
	}
	s := ledger.Summary()
	if s.Tasks != n || s.Bodies != n {
		t.Errorf("ledger %+v, want %d tasks", s, n)
	}
	if again := s.Deliveries - n; again > 3*200 {
		t.Errorf("%d tasks ran again after 3 kills: more than can have been in flight", again)
	}
	t.Logf("%+v", s)
}

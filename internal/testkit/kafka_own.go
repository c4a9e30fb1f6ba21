// A Kafka cluster of the test's own, of which it may kill brokers.

package testkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// OwnedKafka is a cluster that one test has for itself. Its brokers keep their
// data until the test ends, so that one that was killed comes back as it was.
// Use it from the test's goroutine.
type OwnedKafka struct {
	Brokers []string // addresses, the same after a Start

	commands [][]string
	procs    []*process // nil = was never started
	dir      string
}

// OwnKafka starts n brokers (Apache Kafka; topics and offsets on min(n, 3) of
// them, writes acknowledged by two). Where the machine cannot run it the test
// is skipped, unless PERDURE_TEST_REQUIRE_REAL=1. It takes about 20 s and
// n × 400 MB.
func OwnKafka(t testing.TB, n int) *OwnedKafka {
	t.Helper()
	k := &OwnedKafka{dir: t.TempDir()}
	script, err := findScript()
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	cmd := exec.Command(script, "brokers", strconv.Itoa(n), k.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		if requireReal() {
			t.Fatalf("testkit: %s brokers: %v", script, err)
		}
		t.Skipf("brokers of this test's own: %s: %v; %s=1 makes this a failure", script, err, EnvRequireReal)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < 2 {
			t.Fatalf("testkit: %s brokers printed %q", script, line)
		}
		k.Brokers = append(k.Brokers, f[0])
		k.commands = append(k.commands, f[1:])
	}
	k.procs = make([]*process, len(k.commands))
	t.Cleanup(func() {
		for i := range k.procs {
			k.Kill(t, i)
		}
	})
	for i := range k.procs {
		k.Start(t, i)
	}
	k.AwaitAll(t)
	if err := awaitCoordinator(k.Brokers); err != nil {
		t.Fatalf("testkit: %v", err)
	}
	used.tell("kafka     Apache Kafka, %d brokers, owned by a test", n)
	return k
}

// Kill ends broker i with SIGKILL; one that is gone already is fine.
func (k *OwnedKafka) Kill(t testing.TB, i int) {
	t.Helper()
	k.procs[i].kill(t)
}

// Start starts broker i again, with the data that it had, and returns at once:
// see AwaitAll.
func (k *OwnedKafka) Start(t testing.TB, i int) {
	t.Helper()
	k.procs[i].kill(t)
	k.procs[i] = spawn(t, k.dir, fmt.Sprintf("broker%d", i+1), k.commands[i][0], k.commands[i][1:]...)
}

// AwaitAll returns when every broker is in the cluster and every partition of
// every topic has all its replicas in sync.
func (k *OwnedKafka) AwaitAll(t testing.TB) {
	t.Helper()
	adm, err := admin(k.Brokers)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	defer adm.Close()
	Eventually(t, 5*time.Minute, func() (bool, string) {
		for i, p := range k.procs {
			select {
			case <-p.done:
				t.Fatalf("testkit: broker %d ended; the end of its log:\n%s", i+1, p.tail())
			default:
			}
			if conn, err := net.DialTimeout("tcp", k.Brokers[i], time.Second); err != nil {
				return false, err.Error()
			} else if err := conn.Close(); err != nil {
				return false, err.Error()
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m, err := adm.Metadata(ctx)
		if err != nil {
			return false, err.Error()
		}
		if len(m.Brokers) < len(k.procs) {
			return false, fmt.Sprintf("%d of %d brokers are in the cluster", len(m.Brokers), len(k.procs))
		}
		return inSync(m.Topics)
	})
}

func inSync(topics kadm.TopicDetails) (bool, string) {
	for _, topic := range topics.Sorted() {
		for _, p := range topic.Partitions.Sorted() {
			if p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
				return false, fmt.Sprintf("%s/%d: leader %d, in sync %v of %v", topic.Topic, p.Partition, p.Leader, p.ISR, p.Replicas)
			}
		}
	}
	return true, ""
}

// findScript looks for .ci/servers from the test's directory upwards.
func findScript() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		script := filepath.Join(dir, ".ci", "servers")
		if _, err := os.Stat(script); err == nil {
			return script, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no .ci/servers above the test's directory")
		}
		dir = up
	}
}

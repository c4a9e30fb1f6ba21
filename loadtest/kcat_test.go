package loadtest

// A Kafka client that nobody here wrote reads our topics and writes garbage.

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

func TestKcatReadsCloudEventsAndItsGarbageStallsNothing(t *testing.T) {
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		if os.Getenv(testkit.EnvRequireReal) == "1" {
			t.Fatal("kcat is required here and not installed")
		}
		t.Skip("kcat is not installed (Debian: apt-get install kcat)")
	}
	f := newFleet(t, &Ledger{}, patient)
	if !f.Kafka.Real {
		t.Skip("kfake: this test is about other people's clients on a real broker")
	}
	for _, name := range []string{"dispatcher", "relay", "worker", "replayer"} {
		f.start(name, "1")
	}
	topic, brokers := f.Kafka.Prefix+"tasks.load", strings.Join(f.Kafka.Brokers, ",")
	enqueue := func(row int) {
		f.run("enqueue", "-f", f.write(fmt.Sprintf("r%d.ndjson", row),
			fmt.Sprintf("{\"kind\":\"load.step\",\"payload\":{\"row\":%d},\"headers\":{\"team\":\"blue\"}}\n", row)))
	}
	enqueue(1)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return f.Ledger.Summary().Applied == 1, "the first task has not run"
	})
	read := func(args ...string) string {
		out, err := exec.Command(kcat, append([]string{"-b", brokers}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("kcat %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	got := read("-C", "-t", topic, "-e", "-q", "-f", "%h|%s\n")
	for _, want := range []string{"ce_specversion=1.0", "ce_id=main-1-1", "ce_source=/perdure/main",
		"ce_type=load.step", "content-type=application/json", "team=blue", `|{"row":1}`} {
		if !strings.Contains(strings.ReplaceAll(got, `": `, `":`), want) {
			t.Errorf("kcat does not see %s in %s", want, got)
		}
	}

	garbage := []struct{ body, key, headers string }{
		{"not a task", "", ""},
		{"{}", "k", "ce_id=nonsense"},
		{"{}", "k", "ce_id=main-1-7,ce_specversion=9.9"},
		{"\x00\xff\xfe", "\x00", ""},
	}
	for p := range 4 {
		for _, g := range garbage {
			args := []string{"-b", brokers, "-P", "-t", topic, "-p", fmt.Sprint(p)}
			if g.key != "" {
				args = append(args, "-k", strings.ReplaceAll(g.key, "\x00", "z"))
			}
			for _, h := range strings.Split(g.headers, ",") {
				if h != "" {
					args = append(args, "-H", h)
				}
			}
			cmd := exec.Command(kcat, args...)
			cmd.Stdin = strings.NewReader(g.body)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("kcat: %v\n%s", err, out)
			}
		}
	}
	// A tombstone too.
	cmd := exec.Command(kcat, "-b", brokers, "-P", "-t", topic, "-p", "0", "-Z", "-K", ":")
	cmd.Stdin = strings.NewReader("gone:\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kcat: %v\n%s", err, out)
	}
	for row := 2; row < 10; row++ {
		enqueue(row)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		s := f.Ledger.Summary()
		return s.Applied == 9, fmt.Sprintf("%+v: garbage stalls good tasks", s)
	})
	want := 4*len(garbage) + 1
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		out := f.run("dlq", "ls", "-o", "jsonl")
		n := strings.Count(out, `"reason":"undecodable"`)
		return n == want, fmt.Sprintf("%d undecodable letters of %d:\n%s", n, want, out)
	})
}

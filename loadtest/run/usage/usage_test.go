package usage

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// burn uses CPU time until d of it has gone by on the clock.
func burn(d time.Duration) (n int) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		n++
	}
	return n
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "burn" {
		if burn(300*time.Millisecond) == 0 {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestOwnTreeCountsChildrenThatEnded(t *testing.T) {
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	before, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	if before[Own] == 0 && burn(50*time.Millisecond) == 0 {
		t.Skip("this system does not tell")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(self, "burn").Run(); err != nil {
		t.Fatal(err)
	}
	after, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	// Shared cores: of 300 ms on the clock it got at least some.
	if got := after.Since(before)[Own]; got < 30*time.Millisecond {
		t.Errorf("a child that burned 300 ms and ended counts %s", got)
	}
}

func TestServersAreFoundByTheirPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	pids, err := listeners([]string{ln.Addr().String()})
	if errors.Is(err, ErrNotHere) && runtime.GOOS != "linux" {
		t.Skip(err)
	}
	if err != nil || len(pids) != 1 || pids[0] != os.Getpid() {
		t.Errorf("found %v, %v; want this process, %d", pids, err, os.Getpid())
	}
	// Counted once: under our own name.
	m, err := New(Target{Name: "ours", Addrs: []string{ln.Addr().String()}})
	if err != nil || !strings.Contains(m.Missing()["ours"], "in this process") {
		t.Errorf("%v, %v", m, err)
	}
}

func TestWhatIsNotHereIsSaid(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := New(Target{Name: "elsewhere", Addrs: []string{"192.0.2.1:5432"}}, Target{Name: "off", Addrs: []string{free}}, Target{Name: "inside", InProcess: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"elsewhere", "off", "inside"} {
		if m.Missing()[name] == "" {
			t.Errorf("%s: not said to be missing", name)
		}
	}
	if _, err := New(Target{Name: "bad", Addrs: []string{"no-port"}}); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("an address without a port: %v", err)
	}
}

func TestAServerThatEndedIsAnError(t *testing.T) {
	m := &Meter{roots: map[string][]int{"gone": {1 << 30}}}
	if _, err := m.Read(); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("got %v", err)
	}
}

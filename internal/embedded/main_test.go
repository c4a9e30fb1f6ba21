// The test binary is also the process that tests kill: with childEnv set it
// starts a server, says so, and waits for its end.

package embedded

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// childEnv is "<what> <dir>".
const childEnv = "PERDURE_EMBEDDED_TEST_CHILD"

func TestMain(m *testing.M) {
	if what, dir, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		if err := runChild(what, dir); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// runChild holds a server or a lock until its standard input ends or it is killed.
func runChild(what, dir string) error {
	ctx := context.Background()
	var told string
	switch what {
	case "lock":
		lock, err := LockDir(dir)
		if err != nil {
			return err
		}
		defer lock.Release()
	case "kafka":
		k, err := StartKafka(ctx, KafkaConfig{Dir: dir})
		if err != nil {
			return err
		}
		defer k.Close()
		told = k.Brokers()[0]
	case "postgres":
		p, err := StartPostgres(ctx, PostgresConfig{Dir: dir})
		if err != nil {
			return err
		}
		defer p.Close()
		told = fmt.Sprint(p.PID(), " ", p.URL())
	default:
		return fmt.Errorf("no such child: %s", what)
	}
	fmt.Println("ready", told)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// child is a process of this test binary.
type child struct {
	cmd  *exec.Cmd
	told string // what it said after "ready"
}

// startChild starts one and returns when it is ready.
func startChild(t *testing.T, what, dir string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+what+" "+dir)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // held open: its end is our end
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(c.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	told, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		t.Fatalf("child %s said %q (%v)", what, line, err)
	}
	c.told = strings.TrimSpace(told)
	return c
}

// kill is kill -9; the child cannot close anything.
func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

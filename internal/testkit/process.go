// Server processes that a test owns.

package testkit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// process is a running child. It dies with the test process, also when that is
// killed. Use it from the test's goroutine.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	log  string        // its stdout and stderr
}

// spawn starts a program whose output goes to name.log in dir. It runs on a
// thread that lives as long as the child does: the parent-death signal belongs
// to the thread that forked.
func spawn(t testing.TB, dir, name, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{}), log: filepath.Join(dir, name+".log")}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	p.cmd.SysProcAttr, p.cmd.Dir = dieWithParent(), dir
	p.cmd.Stdout, p.cmd.Stderr = out, out
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		defer out.Close() //nolint:errcheck // the child's own file
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() //nolint:errcheck // ended by kill
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("testkit: start %s: %v", program, err)
	}
	return p
}

// kill ends the child with SIGKILL and waits until it is gone. One that is gone
// already, or nil, is fine.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if p == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("testkit: kill %s: %v", p.cmd.Path, err)
	}
	<-p.done
}

// tail is the end of what the child printed, for a failed test's log.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

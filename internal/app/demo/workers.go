package demo

// Worker processes: started, killed, replaced, stopped.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// stopWait is how long a worker process may take to stop by itself.
const stopWait = 15 * time.Second

// workers are the worker processes of one demo.
type workers struct {
	command []string // with its arguments
	env     []string
	dir     string // for their logs

	mu      sync.Mutex
	running []*child
	started int
	failed  chan error // a child that ended although nobody asked
}

type child struct {
	cmd     *exec.Cmd
	stdin   io.Closer // its end tells the child that we are gone, however
	log     *os.File
	done    chan struct{}
	err     error
	ordered bool // to stop, or killed
}

func newWorkers(command, env []string, dir string) *workers {
	return &workers{command: command, env: env, dir: dir, failed: make(chan error, 16)}
}

// start starts n more processes.
func (w *workers) start(ctx context.Context, n int) error {
	for range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.startOne(); err != nil {
			return fmt.Errorf("start a worker process: %w", err)
		}
	}
	return nil
}

func (w *workers) startOne() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started++
	path := filepath.Join(w.dir, fmt.Sprintf("worker-%d.log", w.started))
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	cmd := exec.Command(w.command[0], w.command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.env, log, log
	// Ctrl-C in a terminal goes to a whole process group; we tell them ourselves.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	c := &child{cmd: cmd, stdin: stdin, log: log, done: make(chan struct{})}
	w.running = append(w.running, c)
	go func() {
		err := cmd.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		c.err = err
		close(c.done)
		if !c.ordered {
			w.failed <- fmt.Errorf("worker process %d ended by itself: %w%s", cmd.Process.Pid, errors.Join(err, errEnded), tail(path))
		}
	}()
	return nil
}

var errEnded = errors.New("see its log")

// killOne sends SIGKILL to the process that runs longest and starts another.
func (w *workers) killOne() (pid int, err error) {
	w.mu.Lock()
	if len(w.running) == 0 {
		w.mu.Unlock()
		return 0, errors.New("no worker process runs")
	}
	c := w.running[0]
	w.running = w.running[1:]
	c.ordered = true
	w.mu.Unlock()
	if err := c.cmd.Process.Kill(); err != nil {
		return 0, fmt.Errorf("kill worker process %d: %w", c.cmd.Process.Pid, err)
	}
	<-c.done
	if err := c.close(); err != nil {
		return 0, err
	}
	return c.cmd.Process.Pid, w.startOne()
}

// stop asks every process to stop, and kills those that do not. It may be
// called again.
func (w *workers) stop() error {
	w.mu.Lock()
	all := w.running
	w.running = nil
	var errs []error
	for _, c := range all {
		c.ordered = true
		select {
		case <-c.done:
		default:
			if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, err)
			}
		}
	}
	w.mu.Unlock()
	deadline := time.After(stopWait)
	for _, c := range all {
		select {
		case <-c.done:
		case <-deadline:
			errs = append(errs, fmt.Errorf("worker process %d did not stop within %s; killed", c.cmd.Process.Pid, stopWait), c.cmd.Process.Kill())
			<-c.done
		}
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

func (c *child) close() error {
	// Wait has closed our end of stdin already, where the process ended first.
	if err := c.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return c.log.Close()
}

// tail is the end of a log, for an error message.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return ""
	}
	return "\n" + string(b[max(0, len(b)-2000):])
}

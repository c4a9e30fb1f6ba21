// One run of the postmaster: started, watched, stopped or killed.

package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout = 60 * time.Second // crash recovery may be long
	stopTimeout  = 20 * time.Second // for each of fast and immediate
	pollEvery    = 20 * time.Millisecond
)

// postmaster is a started server process.
type postmaster struct {
	pid  int
	data string
	done chan struct{} // closed when it has ended and was reaped
	err  error         // how it ended; read after done
}

// start launches the server and waits until it answers. A port that is taken
// while any may be used, or memory that a killed server's children still hold,
// is tried again until startTimeout.
func (p *Postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := clearPredecessor(ctx, p.home.data, p.cfg.Log); err != nil {
		return err
	}
	for {
		err := p.startOnce(ctx)
		if err == nil {
			return nil
		}
		tail := p.tail()
		again := strings.Contains(tail, "pre-existing shared memory block") ||
			p.cfg.Port == 0 && strings.Contains(tail, "could not bind")
		if !again || ctx.Err() != nil {
			return fmt.Errorf("embedded postgres: start %s on %s: %w; the end of %s:\n%s", p.bin.version, p.home.data, err, p.home.log, tail)
		}
		if p.cfg.Port == 0 {
			p.port = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * pollEvery):
		}
	}
}

func (p *Postgres) startOnce(ctx context.Context) error {
	switch {
	case p.cfg.Port != 0:
		p.port = p.cfg.Port
	case p.port == 0:
		port, err := FreePort(0)
		if err != nil {
			return err
		}
		p.port = port
	}
	log, err := p.home.openLog()
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own descriptor
	cmd := exec.Command(p.bin.path("postgres"), p.args()...)
	cmd.Dir = p.home.data
	cmd.Env = serverEnv(p.home.data)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr(p.owner)
	began := time.Now()
	proc, err := launch(cmd, p.home.data)
	if err != nil {
		return err
	}
	if err := p.waitReady(ctx, proc); err != nil {
		stopErr := stopPostmaster(proc.pid, p.home.data, proc.endsWithin)
		return errors.Join(err, stopErr)
	}
	p.proc = proc
	p.cfg.Log.Info("embedded postgres started", "version", p.bin.version, "binaries", p.bin.source,
		"pid", proc.pid, "port", p.port, "data", p.home.data, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// args are the server's parameters; the caller's settings come last and win.
func (p *Postgres) args() []string {
	args := []string{"-D", p.home.data,
		"-c", "listen_addresses=" + loopback,
		"-c", "port=" + strconv.Itoa(p.port),
		"-c", "unix_socket_directories=",
		"-c", "logging_collector=off",
	}
	for _, name := range slices.Sorted(maps.Keys(p.cfg.Settings)) {
		args = append(args, "-c", name+"="+p.cfg.Settings[name])
	}
	return args
}

// waitReady polls until the server answers a query, or has ended.
func (p *Postgres) waitReady(ctx context.Context, proc *postmaster) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var last error
	for {
		select {
		case <-proc.done:
			return fmt.Errorf("it ended while starting: %w", proc.err)
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w (last: %w)", ctx.Err(), last)
		case <-ticker.C:
		}
		conn, err := pgx.Connect(ctx, p.urlFor("postgres"))
		if err != nil {
			last = err
			continue
		}
		return conn.Close(ctx)
	}
}

// launch starts the command from a thread of its own that lives until the
// process has ended: the kernel ties the parent-death signal to the *thread*
// that forked, and Go ends idle threads.
func launch(cmd *exec.Cmd, data string) (*postmaster, error) {
	proc := &postmaster{data: data, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(proc.done)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		proc.pid = cmd.Process.Pid
		started <- nil
		proc.err = cmd.Wait()
		if proc.err == nil {
			proc.err = errors.New("exit status 0")
		}
	}()
	if err := <-started; err != nil {
		<-proc.done
		return nil, err
	}
	return proc, nil
}

// wait returns when the process has ended, or with the context's error.
func (m *postmaster) wait(ctx context.Context) error {
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("embedded postgres: process %d has not ended: %w", m.pid, ctx.Err())
	}
}

// endsWithin waits that long for the end.
func (m *postmaster) endsWithin(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return m.wait(ctx) == nil
}

// kill ends the postmaster and the children that it has now. Those that it
// forks in between notice its death and go by themselves.
func (m *postmaster) kill() error {
	children := childrenOf(m.pid)
	if err := syscall.Kill(m.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	for _, pid := range children {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// stopPostmaster asks for a fast shutdown, then an immediate one, then kills.
// ended waits up to a time and says whether the process is gone.
func stopPostmaster(pid int, data string, ended func(time.Duration) bool) error {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("embedded postgres: send %v to process %d on %s: %w", sig, pid, data, err)
		}
		if ended(stopTimeout) {
			return nil
		}
	}
	return fmt.Errorf("embedded postgres: process %d on %s does not end, not even by SIGKILL: is its disk hanging?", pid, data)
}

// serverEnv is all that the server gets of our environment: no PG*, no
// locale, a HOME that it owns.
func serverEnv(home string) []string {
	return []string{"HOME=" + home, "LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
}

// openLog begins a new log and keeps the one before.
func (h *postgresHome) openLog() (*os.File, error) {
	if err := os.Rename(h.log, h.log+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	f, err := os.OpenFile(filepath.Clean(h.log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	return f, nil
}

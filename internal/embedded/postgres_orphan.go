// What a killed predecessor left on a data directory: a running postmaster,
// its children, or a postmaster.pid that names nobody of ours.

package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// clearPredecessor makes the data directory free to start on. A live postgres
// of this directory is shut down; children without a postmaster are waited
// for; a postmaster.pid whose number was given to some other process, which
// Postgres itself would take for a running server, is removed.
func clearPredecessor(ctx context.Context, data string, log *slog.Logger) error {
	pidFile := filepath.Join(data, "postmaster.pid")
	pid := readPID(pidFile)
	if pid != 0 && isPostgresOn(pid, data) {
		log.Warn("stopping a postgres that a killed process left running", "pid", pid, "data", data)
		if err := stopPostmaster(pid, data, func(d time.Duration) bool { return goneWithin(pid, data, d) }); err != nil {
			return err
		}
	}
	if err := waitGone(ctx, data); err != nil {
		return err
	}
	if pid == 0 || !alive(pid) || isPostgresOn(pid, data) {
		// Nothing there, or a dead pid: Postgres handles that itself, and
		// checks the shared memory that the file names.
		return nil
	}
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("embedded postgres: remove stale %s: %w", pidFile, err)
	}
	return nil
}

// waitGone waits until no postgres process works on the data directory. The
// children of a killed postmaster notice within a second; those that do not
// by then are killed.
func waitGone(ctx context.Context, data string) error {
	const patience = 3 * time.Second
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	began := time.Now()
	for {
		left := postgresOn(data)
		if len(left) == 0 {
			return nil
		}
		if time.Since(began) > patience {
			for _, pid := range left {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("embedded postgres: kill left-over process %d on %s: %w", pid, data, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("embedded postgres: processes %v still work on %s: %w", left, data, ctx.Err())
		case <-ticker.C:
		}
	}
}

// goneWithin waits for the end of a process that is not our child.
func goneWithin(pid int, data string, d time.Duration) bool {
	deadline := time.Now().Add(d)
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for isPostgresOn(pid, data) {
		if time.Now().After(deadline) {
			return false
		}
		<-ticker.C
	}
	return true
}

// alive says whether a process of that number exists, whoever owns it.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

func isPostgresOn(pid int, data string) bool { return slices.Contains(postgresOn(data), pid) }

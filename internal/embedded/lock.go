// One process per data directory: an flock that dies with its holder.

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockFile is the file in a data directory whose flock says "in use".
const lockFile = "lock"

// DirLock is the exclusive right to use a data directory. The kernel takes it
// back when the process ends, however it ends; a stale lock cannot exist.
type DirLock struct {
	dir  string
	file *os.File
}

// DirInUseError says that another process holds the directory.
type DirInUseError struct {
	Dir string // the directory that was asked for
	PID int    // the holder; 0 if it could not be read
}

// Error names the directory, the holder, and the two ways out.
func (e *DirInUseError) Error() string {
	holder := "another process"
	if e.PID > 0 {
		holder = "process " + strconv.Itoa(e.PID)
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop that one, or set PERDURE_DATA_DIR to another directory", e.Dir, holder)
}

// LockDir takes the directory for this process, and creates it (0711, so that
// an unprivileged Postgres can reach its own folder inside) if it is not
// there. It does not wait: a directory that is in use gives a [*DirInUseError].
func LockDir(dir string) (*DirLock, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("embedded: create data directory: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded: open lock of data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close() //nolint:errcheck // only read from
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &DirInUseError{Dir: dir, PID: readPID(path)}
		}
		return nil, fmt.Errorf("embedded: lock data directory %s (does its file system support flock?): %w", dir, err)
	}
	l := &DirLock{dir: dir, file: f}
	if err := l.writePID(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: write pid into %s: %w", path, err), f.Close())
	}
	return l, nil
}

// Dir is the directory that is held.
func (l *DirLock) Dir() string { return l.dir }

// Release gives the directory back. The file stays: removing it would let two
// processes hold locks on two files of one name.
func (l *DirLock) Release() error {
	if err := l.file.Truncate(0); err != nil {
		return errors.Join(fmt.Errorf("embedded: release %s: %w", l.dir, err), l.file.Close())
	}
	return l.file.Close()
}

func (l *DirLock) writePID() error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// readPID gives the first line of a pid file as a number, 0 if it is none.
func readPID(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return 0
	}
	return pid
}

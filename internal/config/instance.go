package config

// The name of a process: the same after a restart, never held by two.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxSlots bounds the processes of one role on one host that share a DATA_DIR.
const maxSlots = 1000

// Instance is the right to a name. Release it after the process's last word to
// Kafka and Redis.
type Instance struct {
	Name string
	file *os.File // nil: the name was given, nothing is held
}

// TakeInstance gives this process its name: PERDURE_INSTANCE as it stands, else
// host name, role and the first slot that no living process holds. Slots are
// file locks under DATA_DIR, so a killed process's slot is free at once.
func (c Config) TakeInstance(role string) (*Instance, error) {
	if c.Instance != "" {
		return &Instance{Name: c.Instance}, nil
	}
	if c.DataDir == "" {
		return nil, errors.New("no name for this process: set PERDURE_INSTANCE, or PERDURE_DATA_DIR (there is no home directory to put slots in)")
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("no name for this process: %w: set PERDURE_INSTANCE", err)
	}
	dir := filepath.Join(c.DataDir, "slots")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("no name for this process: %w: set PERDURE_INSTANCE, or PERDURE_DATA_DIR to a folder that can be written", err)
	}
	for n := range maxSlots {
		f, err := trySlot(filepath.Join(dir, fmt.Sprintf("%s-%d", role, n)))
		if err != nil {
			return nil, fmt.Errorf("no name for this process: %w", err)
		}
		if f != nil {
			return &Instance{Name: fmt.Sprintf("%s-%s-%d", cleanHost(host), role, n), file: f}, nil
		}
	}
	return nil, fmt.Errorf("no name for this process: all %d slots of %s in %s are held", maxSlots, role, dir)
}

// Held reports whether a lock proves that no other living process of this
// DATA_DIR has the name.
func (i *Instance) Held() bool { return i.file != nil }

// trySlot locks a slot's file; nil, nil means that another process holds it.
func trySlot(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, f.Close()
	default:
		return nil, errors.Join(fmt.Errorf("lock %s (does its file system support flock?): %w", path, err), f.Close())
	}
}

// Release frees the slot. A second call does nothing.
func (i *Instance) Release() error {
	if i.file == nil {
		return nil
	}
	f := i.file
	i.file = nil
	return f.Close()
}

// cleanHost keeps what Kafka and Redis take in a name, at most 63 bytes.
func cleanHost(host string) string {
	host = strings.Map(func(r rune) rune {
		if onlyNameBytes(string(r)) {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	if len(host) > 63 {
		host = host[:63]
	}
	if host == "" {
		return "host"
	}
	return host
}

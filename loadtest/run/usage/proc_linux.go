package usage

// CPU times and listening sockets, from Linux's /proc.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc's times. USER_HZ is 100 on every architecture that
// Go runs on.
const tick = 10 * time.Millisecond

// processes reads /proc/*/stat. A process that ends meanwhile is skipped: its
// time has gone to its parent, or goes there before the next reading.
func processes() (*table, error) {
	t := &table{self: os.Getpid(), times: map[int]time.Duration{}, children: map[int][]int{}}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pid, parent, used, err := parseStat(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		t.times[pid] = used
		t.children[parent] = append(t.children[parent], pid)
	}
	return t, nil
}

// parseStat reads one line of proc_pid_stat(5).
func parseStat(b []byte) (pid, parent int, used time.Duration, err error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')') // the name may hold anything
	if open < 0 || end < open {
		return 0, 0, 0, errors.New("no name in parentheses")
	}
	rest := strings.Fields(string(b[end+1:])) // from field 3, the state
	if len(rest) < 15 {
		return 0, 0, 0, fmt.Errorf("%d fields after the name, want at least 15", len(rest))
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(b[:open]))); err != nil {
		return 0, 0, 0, err
	}
	if parent, err = strconv.Atoi(rest[1]); err != nil {
		return 0, 0, 0, err
	}
	for _, f := range rest[11:15] { // utime stime cutime cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, 0, err
		}
		used += time.Duration(n) * tick
	}
	return pid, parent, used, nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errSearch)
}

// listeners returns the processes that listen on addrs, of each family only the
// eldest: children inherit sockets.
func listeners(addrs []string) ([]int, error) {
	inodes, err := listening(addrs)
	if err != nil {
		return nil, err
	}
	if len(inodes) == 0 {
		return nil, fmt.Errorf("%w: nothing on this machine listens on %s", ErrNotHere, strings.Join(addrs, ", "))
	}
	holders, err := holding(inodes)
	if err != nil {
		return nil, err
	}
	if len(holders) == 0 {
		return nil, fmt.Errorf("%w: the process that listens on %s cannot be seen (another user's, or outside this container)", ErrNotHere, strings.Join(addrs, ", "))
	}
	t, err := processes()
	if err != nil {
		return nil, err
	}
	return eldest(holders, t), nil
}

// eldest are the holders whose parent is none. A child that has ended since it
// was seen (a backend that was just started) is left out: its time went to its
// parent.
func eldest(holders map[int]bool, t *table) (roots []int) {
	parent := map[int]int{}
	for p, children := range t.children {
		for _, c := range children {
			parent[c] = p
		}
	}
	for pid := range holders {
		if _, runs := t.times[pid]; runs && !holders[parent[pid]] {
			roots = append(roots, pid)
		}
	}
	return roots
}

// holding returns the processes that have one of the sockets open.
func holding(inodes map[string]bool) (map[int]bool, error) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil, err
	}
	pids := map[int]bool{}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(to, "socket:[") {
			continue // closed meanwhile, or not ours to see
		}
		if inodes[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] {
			pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
			if err != nil {
				return nil, err
			}
			pids[pid] = true
		}
	}
	return pids, nil
}

package usage

// What is measured, and what could not be found.

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Own is the name under which our own process tree is counted.
const Own = "go"

// ErrNotHere is why a server's CPU is not counted: it runs elsewhere, or this
// system does not tell.
var ErrNotHere = errors.New("not counted")

const inProcess = "embedded in this process: counted under " + Own

// Target is a server whose CPU time is asked for.
type Target struct {
	Name string
	// Addrs are host:port, or the path of a Unix socket. Every one that this
	// machine listens on is counted.
	Addrs []string
	// InProcess: the server is a part of this process and counted there.
	InProcess bool
}

// Meter reads the CPU time of our own process tree and of the targets.
type Meter struct {
	roots   map[string][]int // of each target: pids
	missing map[string]string
}

// New finds the targets' processes. A target that is not found is Missing; it
// is no error, because its server may well be on another machine.
func New(targets ...Target) (*Meter, error) {
	m := &Meter{roots: map[string][]int{}, missing: map[string]string{}}
	for _, t := range targets {
		if t.InProcess {
			m.missing[t.Name] = inProcess
			continue
		}
		pids, err := listeners(t.Addrs)
		if slices.Contains(pids, os.Getpid()) {
			m.missing[t.Name] = inProcess
			continue
		}
		if errors.Is(err, ErrNotHere) {
			m.missing[t.Name] = err.Error()
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find the processes of %s: %w", t.Name, err)
		}
		m.roots[t.Name] = pids
	}
	return m, nil
}

// Missing says of each target that is not counted why.
func (m *Meter) Missing() map[string]string { return m.missing }

// Use is CPU time (user and system) by name: Own and every target found.
type Use map[string]time.Duration

// Since returns what was used after before.
func (u Use) Since(before Use) Use {
	d := Use{}
	for name, v := range u {
		d[name] = v - before[name]
	}
	return d
}

// Total is the sum of all parts.
func (u Use) Total() (sum time.Duration) {
	for _, v := range u {
		sum += v
	}
	return sum
}

// Read returns the CPU time used so far, since each process began.
func (m *Meter) Read() (Use, error) {
	table, err := processes()
	if err != nil {
		return nil, fmt.Errorf("read CPU times: %w", err)
	}
	use := Use{}
	var servers []int
	for name, pids := range m.roots {
		servers = append(servers, pids...)
		for _, pid := range pids {
			if _, ok := table.times[pid]; !ok {
				return nil, fmt.Errorf("read CPU times: process %d of %s has ended: what it used is lost", pid, name)
			}
			use[name] += table.tree(pid, nil)
		}
	}
	slices.Sort(servers)
	use[Own] = table.tree(table.self, servers)
	return use, nil
}

// table is every process at one moment.
type table struct {
	self     int
	times    map[int]time.Duration // its own, and those of its children that have ended
	children map[int][]int
}

// tree sums pid and what descends from it, without the trees of others (sorted).
func (t *table) tree(pid int, others []int) time.Duration {
	sum := t.times[pid]
	for _, c := range t.children[pid] {
		if _, other := slices.BinarySearch(others, c); !other {
			sum += t.tree(c, others)
		}
	}
	return sum
}

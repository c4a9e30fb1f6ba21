// Processes on Linux: the parent-death signal, and /proc.

package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// childAttr starts a child in a process group of its own, so that Ctrl-C at
// the terminal stops the parts in their order, and not the database first;
// if this process dies, the kernel asks the child for a fast shutdown.
func childAttr(owner *serverUser) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential: owner.credential(),
		Setpgid:    true,
		Pdeathsig:  syscall.SIGINT,
	}
}

// postgresOn lists the live postgres processes whose working directory, as
// every Postgres process's is, is the data directory. The path must be free of
// symlinks. Processes that we may not look at are not ours.
func postgresOn(data string) []int {
	var pids []int
	eachProcess(func(pid int) {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		cwd, err := os.Readlink(filepath.Join(dir, "cwd"))
		if err != nil || cwd != data {
			return
		}
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != "postgres" {
			return
		}
		if state, _ := statOf(pid); state != "Z" && state != "X" {
			pids = append(pids, pid)
		}
	})
	return pids
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) []int {
	var children []int
	eachProcess(func(p int) {
		if _, parent := statOf(p); parent == pid {
			children = append(children, p)
		}
	})
	return children
}

func eachProcess(visit func(pid int)) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			visit(pid)
		}
	}
}

// statOf reads state and parent from "pid (comm) S ppid …"; comm may hold
// anything, so that fields count from its last parenthesis.
func statOf(pid int) (state string, parent int) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, err = strconv.Atoi(fields[1])
	if err != nil {
		return "", 0
	}
	return fields[0], parent
}

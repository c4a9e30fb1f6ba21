//go:build !linux

// Processes where there is no /proc: by ps, and no parent-death signal.

package embedded

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// childAttr starts a child in a process group of its own, so that Ctrl-C at
// the terminal stops the parts in their order, and not the database first.
// Left over by a killed parent, it is found and stopped by the next start.
func childAttr(owner *serverUser) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: owner.credential(), Setpgid: true}
}

// postgresOn lists the postmaster of the data directory, which names it on
// its command line, and its children.
func postgresOn(data string) []int {
	var pids []int
	for _, p := range processes() {
		if strings.Contains(p.command, "postgres") && strings.Contains(p.command, "-D "+data+" ") {
			pids = append(pids, p.pid)
			pids = append(pids, childrenOf(p.pid)...)
		}
	}
	return pids
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) []int {
	var children []int
	for _, p := range processes() {
		if p.parent == pid {
			children = append(children, p.pid)
		}
	}
	return children
}

type process struct {
	pid, parent int
	command     string
}

// processes lists all that run, zombies left out.
func processes() []process {
	out, err := exec.Command(filepath.Join("/bin", "ps"), "-axww", "-o", "pid=,ppid=,stat=,command=").Output()
	if err != nil {
		return nil
	}
	var all []process
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[2], "Z") {
			continue
		}
		pid, err1 := strconv.Atoi(f[0])
		parent, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil {
			all = append(all, process{pid, parent, strings.Join(f[3:], " ")})
		}
	}
	return all
}

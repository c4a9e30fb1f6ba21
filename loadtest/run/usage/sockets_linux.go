package usage

// Which sockets of this machine listen on an address.

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// errSearch is what reading /proc gives where the process ends between open and
// read.
const errSearch = syscall.ESRCH

// stateListen is TCP_LISTEN in /proc/net/tcp.
const stateListen = "0A"

// listening returns the inodes of the sockets that listen on addrs. Only
// loopback and this machine's own addresses count.
func listening(addrs []string) (map[string]bool, error) {
	ports, paths := map[int]bool{}, map[string]bool{}
	for _, a := range addrs {
		if strings.HasPrefix(a, "/") {
			paths[a] = true
			continue
		}
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return nil, err
		}
		here, err := ownHost(host)
		if err != nil {
			return nil, err
		}
		if !here {
			continue
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, fmt.Errorf("port of %s: %w", a, err)
		}
		ports[n] = true
	}
	inodes := map[string]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if gone(err) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != stateListen {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseInt(hex, 16, 32); err == nil && ports[int(n)] {
				inodes[f[9]] = true
			}
		}
	}
	if len(paths) == 0 {
		return inodes, nil
	}
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= 8 && paths[f[7]] {
			inodes[f[6]] = true
		}
	}
	return inodes, nil
}

// ownHost is true for this machine.
func ownHost(host string) (bool, error) {
	if host == "" || host == "localhost" {
		return true, nil
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return false, nil // a name: not asked for, it may be a balancer's
	}
	if ip.IsLoopback() {
		return true, nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true, nil
		}
	}
	return false, nil
}

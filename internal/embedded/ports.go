// Loopback ports: a free one, or the first free one from a wished one on.

package embedded

import (
	"fmt"
	"net"
	"strconv"
)

// loopback is the only address that embedded servers listen on.
const loopback = "127.0.0.1"

// FreePort returns first if it is free on loopback, else the next free one of
// the hundred that follow; 0 asks for any free port. Another process can take
// the port before it is used: callers that lose that race start again.
func FreePort(first int) (int, error) {
	if first == 0 {
		return probePort(0)
	}
	var lastErr error
	for port := first; port <= first+100 && port <= 65535; port++ {
		got, err := probePort(port)
		if err == nil {
			return got, nil
		}
		lastErr = err
	}
	return 0, fmt.Errorf("embedded: no free port from %d on: %w", first, lastErr)
}

// probePort listens on the port and lets it go again.
func probePort(port int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	got := l.Addr().(*net.TCPAddr).Port
	return got, l.Close()
}

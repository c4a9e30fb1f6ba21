package webhook

// The transport that all calls of a process share.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// ErrForbiddenAddress is wrapped by the error of a dial that was refused here.
var ErrForbiddenAddress = errors.New("link-local and metadata addresses are never called")

// metadata are addresses of cloud metadata services outside the link-local
// ranges.
var metadata = [...]netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud, older
}

// NewTransport returns a keep-alive transport that holds up to perHost idle
// connections to an endpoint, and speaks HTTP/2 where TLS negotiates it: there,
// one connection carries many calls, so a connection that has gone silent (its
// peer lost its power, a firewall forgot it) is asked for a sign of life and
// closed, or every call on it would run into its timeout. It uses no proxy from
// the environment: the addresses that it connects to are the ones that it checks.
func NewTransport(perHost int) *http.Transport {
	dialer := &net.Dialer{
		Timeout: 5 * time.Second, KeepAlive: 15 * time.Second,
		// Control sees the address that is really connected to, after every
		// name was resolved: a name cannot point elsewhere a moment later.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return checkAddress(address)
		},
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
		MaxIdleConns:           0,
		MaxIdleConnsPerHost:    perHost,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

func checkAddress(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, err)
	}
	ip := ap.Addr().Unmap().WithZone("")
	forbidden := ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsMulticast() || ip.IsUnspecified()
	for _, m := range metadata {
		forbidden = forbidden || ip == m
	}
	if forbidden {
		return fmt.Errorf("dial %s: %w", ip, ErrForbiddenAddress)
	}
	return nil
}

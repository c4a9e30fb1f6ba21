package schemas

// Which URLs a catalog may send payloads to.

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// metadataHosts answer with a machine's credentials on common clouds.
var metadataHosts = []string{"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}

// metadataAddrs are metadata services outside the link-local ranges.
var metadataAddrs = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("168.63.129.16"),   // Azure's host
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
}

// badURL says why a kind may not be sent to s, "" if it may. Names are judged
// as written; what they resolve to is judged again when a connection is made.
func badURL(s string) string {
	if len(s) > 2048 {
		return "is longer than 2048 bytes"
	}
	u, err := url.Parse(s)
	switch {
	case err != nil, strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "must begin with http:// or https://"
	case u.Hostname() == "":
		return "has no host"
	case u.User != nil:
		return "holds a user name or password: sign with secret_env instead"
	case u.Fragment != "" || strings.Contains(s, "#"):
		return "has a fragment (#…), which is never sent"
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if slices.Contains(metadataHosts, host) {
		return "is a metadata service, which must never get a task"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		if legacyAddr(host) {
			return "spells its address unusually: write it as four decimal numbers"
		}
		return ""
	}
	if ForbiddenAddr(addr) {
		return "is a link-local or metadata address, which must never get a task"
	}
	return ""
}

// ForbiddenAddr reports whether no task may ever be sent to an address: link-local
// and metadata services, also as IPv4 inside IPv6. Private addresses are allowed.
func ForbiddenAddr(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		b := a.As16()
		// NAT64 (RFC 6052) and IPv4-compatible addresses carry an IPv4 one at the end.
		if nat64 := [12]byte{0x00, 0x64, 0xff, 0x9b}; [12]byte(b[:12]) == nat64 {
			return ForbiddenAddr(netip.AddrFrom4([4]byte(b[12:])))
		}
		if [12]byte(b[:12]) == [12]byte{} && b[12] != 0 {
			return ForbiddenAddr(netip.AddrFrom4([4]byte(b[12:])))
		}
	}
	return a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsMulticast() || a.IsUnspecified() ||
		slices.Contains(metadataAddrs, a)
}

// legacyAddr reports whether a resolver might read host as an IPv4 address in
// the manner of inet_aton: 2852039166, 0xa9fea9fe, 169.254.43518.
func legacyAddr(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "" {
		return false
	}
	if strings.HasPrefix(last, "0x") {
		return true
	}
	return strings.Trim(last, "0123456789") == ""
}

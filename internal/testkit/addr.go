package testkit

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreeAddr is a loopback address for a server that a test starts later. Its port is below
// those of outgoing connections and of .ci/servers: nobody takes it meanwhile but another
// test, by a rare chance.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(10_000)))
		if ln, err := net.Listen("tcp", addr); err == nil {
			_ = ln.Close() // only its address is wanted
			return addr
		}
	}
	t.Fatal("testkit: no free port")
	return ""
}

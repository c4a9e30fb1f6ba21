// TestMain for packages that use servers, and the report of what they used.

package testkit

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Environment that says where servers are; see the package comment.
const (
	EnvKafka       = "PERDURE_TEST_KAFKA"        // host:port,host:port
	EnvRedis       = "PERDURE_TEST_REDIS"        // host:port
	EnvPostgres    = "PERDURE_TEST_POSTGRES"     // URL of a superuser
	EnvRequireReal = "PERDURE_TEST_REQUIRE_REAL" // 1: never fall back to fakes
)

// Main runs a package's tests, closes the servers that they started, and fails
// if goroutines are left. Use it as the whole TestMain:
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
func Main(m *testing.M, leaks ...goleak.Option) {
	code := m.Run()
	if testing.Verbose() {
		Report(os.Stderr)
	}
	if err := used.close(); err != nil {
		fmt.Fprintln(os.Stderr, "testkit: close servers:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(leaks...); err != nil {
			fmt.Fprintln(os.Stderr, "testkit: goroutines are left after the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Report writes one line per server that this process's tests used so far.
func Report(w io.Writer) {
	for _, line := range used.lines() {
		fmt.Fprintln(w, line)
	}
}

// used are this test process's servers. A test process has no main of its own
// that could carry them, which is why they are the one global here.
var used servers

// servers remembers what to close and what to tell.
type servers struct {
	mu      sync.Mutex
	closers []io.Closer
	told    []string
}

// keep closes the server when the test process ends.
func (s *servers) keep(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, c)
}

// tell adds a line to the report, once.
func (s *servers) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line := fmt.Sprintf(format, args...); !slices.Contains(s.told, line) {
		s.told = append(s.told, line)
	}
}

func (s *servers) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.told))
}

// close closes in the reverse order of opening.
func (s *servers) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first error
	for _, c := range slices.Backward(s.closers) {
		if err := c.Close(); err != nil && first == nil {
			first = err
		}
	}
	s.closers = nil
	return first
}

// requireReal says whether fakes are forbidden.
func requireReal() bool { return os.Getenv(EnvRequireReal) == "1" }

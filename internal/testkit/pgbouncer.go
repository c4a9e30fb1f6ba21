// A transaction pooler in front of a test's database.

package testkit

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/embedded"
)

// PgBouncer starts a pgbouncer in transaction mode, with servers connections to
// each database, and returns direct's URL through it. Without a pgbouncer on the
// machine the test is skipped, or fails under PERDURE_TEST_REQUIRE_REAL=1.
func PgBouncer(t testing.TB, direct string, servers int) string {
	t.Helper()
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		bin, err = exec.LookPath("/usr/sbin/pgbouncer") // not in everybody's path
	}
	switch {
	case err != nil && requireReal():
		t.Fatalf("testkit: %s=1 and no pgbouncer: %v", EnvRequireReal, err)
	case err != nil:
		t.Skipf("no pgbouncer on this machine: %v; %s=1 makes this a failure", err, EnvRequireReal)
	}
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	port, err := embedded.FreePort(0)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	password, _ := u.User.Password()
	dir := t.TempDir()
	config := filepath.Join(dir, "pgbouncer.ini")
	// "any" takes every client in the name of the one user that stands here.
	text := fmt.Sprintf("[databases]\n* = host=%s port=%s user=%s password='%s'\n[pgbouncer]\n"+
		"listen_addr = 127.0.0.1\nlisten_port = %d\nauth_type = any\npool_mode = transaction\ndefault_pool_size = %d\nmax_client_conn = 1000\nunix_socket_dir =\n",
		u.Hostname(), u.Port(), u.User.Username(), password, port, servers)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatalf("testkit: %v", err)
	}
	args := []string{config}
	if os.Geteuid() == 0 { // it does not run as root
		args = append([]string{"-u", "nobody"}, args...)
	}
	p := spawn(t, dir, "pgbouncer", bin, args...)
	t.Cleanup(func() { p.kill(t) })
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	Eventually(t, 10*time.Second, func() (bool, string) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false, err.Error()
		}
		_ = c.Close() // it listens
		return true, ""
	})
	used.tell("pgbouncer %s, in transaction mode", version(bin))
	u.Host = addr
	return u.String()
}

// version is the first line of a program's --version, without its name.
func version(bin string) string {
	out, err := exec.Command(bin, "--version").Output()
	if err != nil {
		return "of an unknown version"
	}
	var name, number string
	if _, err := fmt.Sscan(string(out), &name, &number); err != nil {
		return "of an unknown version"
	}
	return number
}

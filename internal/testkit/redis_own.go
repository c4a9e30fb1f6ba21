// A Redis of the test's own, which it may flush, kill and restart.

package testkit

import (
	"context"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/embedded"
)

// OwnedRedis is a Redis that one test has for itself. It keeps nothing on
// disk: after Kill and Restart it is empty, as a Redis that lost its memory.
// Use it from the test's goroutine.
type OwnedRedis struct {
	Addr string // host:port, the same after a Restart
	Real bool   // false: miniredis

	port int
	dir  string
	proc *process
	mini *embedded.Redis
}

// OwnRedis starts a redis-server for the test; where the machine has none, a
// miniredis, unless PERDURE_TEST_REQUIRE_REAL=1.
func OwnRedis(t testing.TB) *OwnedRedis {
	t.Helper()
	_, err := exec.LookPath("redis-server")
	if err != nil && requireReal() {
		t.Fatalf("testkit: %s=1 and no redis-server: %v", EnvRequireReal, err)
	}
	port, portErr := embedded.FreePort(0)
	if portErr != nil {
		t.Fatalf("testkit: %v", portErr)
	}
	r := &OwnedRedis{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Real: err == nil, port: port, dir: t.TempDir(),
	}
	t.Cleanup(func() { r.Kill(t) })
	r.Restart(t)
	return r
}

// Flush drops every key.
func (r *OwnedRedis) Flush(t testing.TB) {
	t.Helper()
	if r.mini != nil {
		r.mini.Flush()
		return
	}
	c := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer c.Close() //nolint:errcheck // the work is done or has failed
	if err := c.FlushAll(context.Background()).Err(); err != nil {
		t.Fatalf("testkit: flush redis: %v", err)
	}
}

// Kill ends the server with SIGKILL and waits until it is gone. A server that
// is gone already is fine.
func (r *OwnedRedis) Kill(t testing.TB) {
	t.Helper()
	if r.mini != nil {
		if err := r.mini.Close(); err != nil {
			t.Errorf("testkit: stop redis: %v", err)
		}
		r.mini = nil
	}
	r.proc.kill(t)
	r.proc = nil
}

// Restart starts the server again, empty, on the same address, and returns
// when it answers. It kills a running one first.
func (r *OwnedRedis) Restart(t testing.TB) {
	t.Helper()
	r.Kill(t)
	if !r.Real {
		mini, err := embedded.StartRedis(context.Background(), embedded.RedisConfig{Port: r.port})
		if err != nil {
			t.Fatalf("testkit: %v", err)
		}
		r.mini = mini
		used.tell("redis     miniredis, embedded, owned by a test")
		return
	}
	r.launch(t)
	Eventually(t, 10*time.Second, func() (bool, string) {
		version, err := redisVersion(r.Addr)
		if err != nil {
			return false, err.Error()
		}
		used.tell("redis     %s (redis-server, owned by a test)", version)
		return true, ""
	})
}

// launch starts redis-server on its port; it keeps nothing on disk.
func (r *OwnedRedis) launch(t testing.TB) {
	t.Helper()
	r.proc = spawnRedis(t, r.dir, r.port)
}

// spawnRedis starts a redis-server on loopback that keeps nothing on disk.
// more goes to its command line after that.
func spawnRedis(t testing.TB, dir string, port int, more ...string) *process {
	t.Helper()
	args := []string{"--bind", "127.0.0.1", "--port", strconv.Itoa(port),
		"--save", "", "--appendonly", "no", "--dir", dir, "--daemonize", "no",
		"--repl-diskless-sync-delay", "0", "--rdb-del-sync-files", "yes"} // of replicas and their primaries
	return spawn(t, dir, "redis-"+strconv.Itoa(port), "redis-server", append(args, more...)...)
}

// Redis as operators run it: a cluster, or a master watched by a sentinel.

package testkit

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/embedded"
)

// RedisNode is one redis-server of a topology.
type RedisNode struct {
	Addr string
	proc *process
}

// Kill ends the node with SIGKILL; it does not come back.
func (n *RedisNode) Kill(t testing.TB) {
	t.Helper()
	n.proc.kill(t)
}

// needRedis skips the test where there is no redis-server, or fails it under
// PERDURE_TEST_REQUIRE_REAL=1.
func needRedis(t testing.TB) {
	t.Helper()
	_, err := exec.LookPath("redis-server")
	if err != nil && requireReal() {
		t.Fatalf("testkit: %s=1 and no redis-server: %v", EnvRequireReal, err)
	}
	if err != nil {
		t.Skipf("testkit: %v", err)
	}
}

func startNode(t testing.TB, port int, more ...string) *RedisNode {
	t.Helper()
	n := &RedisNode{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	n.proc = spawnRedis(t, t.TempDir(), port, more...)
	t.Cleanup(func() { n.Kill(t) })
	return n
}

// ask runs one command on a node, also while it still starts.
func (n *RedisNode) ask(t testing.TB, args ...any) any {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1})
	defer c.Close() //nolint:errcheck // one question
	var answer any
	Eventually(t, 20*time.Second, func() (bool, string) {
		var err error
		answer, err = c.Do(context.Background(), args...).Result()
		return err == nil, fmt.Sprintf("redis at %s, %v: %v\n%s", n.Addr, args, err, n.proc.tail())
	})
	return answer
}

// RedisCluster is three masters that share the slots, one with a replica.
type RedisCluster struct {
	Masters, Replicas []*RedisNode
}

// AwaitFailover waits until the replica is a master.
func (c *RedisCluster) AwaitFailover(t testing.TB) {
	t.Helper()
	Eventually(t, 30*time.Second, func() (bool, string) {
		info := fmt.Sprint(c.Replicas[0].ask(t, "info", "replication"))
		return strings.Contains(info, "role:master"), info + fmt.Sprint(c.Replicas[0].ask(t, "cluster", "nodes")) + c.Replicas[0].proc.tail()
	})
}

// Addrs are the masters' addresses.
func (c *RedisCluster) Addrs() (addrs []string) {
	for _, n := range c.Masters {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// NewRedisCluster starts a cluster whose nodes are called dead after 1.5 s. Only
// the master that holds key's slot has a replica, which takes over then.
func NewRedisCluster(t testing.TB, key string) *RedisCluster {
	t.Helper()
	needRedis(t)
	node := func() *RedisNode {
		return startNode(t, clusterPort(t), "--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-require-full-coverage", "no")
	}
	c := &RedisCluster{Masters: []*RedisNode{node(), node(), node()}, Replicas: []*RedisNode{node()}}
	for i, n := range c.Masters {
		n.ask(t, "cluster", "addslotsrange", i*16384/3, (i+1)*16384/3-1)
		n.ask(t, "cluster", "set-config-epoch", i+1)
	}
	first := c.Masters[0]
	for _, n := range append(c.Masters[1:], c.Replicas...) {
		host, port, _ := net.SplitHostPort(n.Addr)
		first.ask(t, "cluster", "meet", host, port)
	}
	owner := c.Owner(t, key)
	id := fmt.Sprint(owner.ask(t, "cluster", "myid"))
	Eventually(t, 20*time.Second, func() (bool, string) {
		nodes := fmt.Sprint(c.Replicas[0].ask(t, "cluster", "nodes"))
		return strings.Contains(nodes, id) && strings.Count(nodes, "\n") == 4, "the replica does not know its master yet:\n" + nodes
	})
	c.Replicas[0].ask(t, "cluster", "replicate", id)
	for _, n := range append([]*RedisNode{c.Replicas[0]}, c.Masters...) {
		Eventually(t, 20*time.Second, func() (bool, string) {
			info := fmt.Sprint(n.ask(t, "cluster", "info"))
			slots := fmt.Sprint(n.ask(t, "cluster", "slots"))
			_, port, _ := net.SplitHostPort(c.Replicas[0].Addr)
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(slots, port), info + slots
		})
	}
	Eventually(t, 20*time.Second, func() (bool, string) {
		info := fmt.Sprint(c.Replicas[0].ask(t, "info", "replication"))
		return strings.Contains(info, "master_link_status:up"), info
	})
	used.tell("redis     a cluster, owned by a test")
	return c
}

// Owner is the master that key's slot was given to at the beginning.
func (c *RedisCluster) Owner(t testing.TB, key string) *RedisNode {
	t.Helper()
	slot, ok := c.Masters[0].ask(t, "cluster", "keyslot", key).(int64)
	if !ok {
		t.Fatal("testkit: cluster keyslot gave no number")
	}
	for i, n := range c.Masters {
		if slot < int64((i+1)*16384/3) {
			return n
		}
	}
	return c.Masters[len(c.Masters)-1]
}

// clusterPort is free, and so is the one 10,000 above, which the nodes speak by.
func clusterPort(t testing.TB) int {
	t.Helper()
	for range 50 {
		port, err := embedded.FreePort(0)
		if err != nil {
			t.Fatalf("testkit: %v", err)
		}
		if port+10_000 > 65_535 {
			port -= 20_000
		}
		if a, err := embedded.FreePort(port); err != nil || a != port {
			continue
		}
		if b, err := embedded.FreePort(port + 10_000); err == nil && b == port+10_000 {
			return port
		}
	}
	t.Fatal("testkit: no two free ports for a cluster node")
	return 0
}

// RedisSentinel is a master with a replica, watched by one sentinel.
type RedisSentinel struct {
	Master, Replica *RedisNode
	Sentinel        *RedisNode
	Name            string // of the master, for PERDURE_REDIS_MASTER_NAME
}

// NewRedisSentinel starts one that calls the master dead after 500 ms.
func NewRedisSentinel(t testing.TB) *RedisSentinel {
	t.Helper()
	needRedis(t)
	port := func() int {
		p, err := embedded.FreePort(0)
		if err != nil {
			t.Fatalf("testkit: %v", err)
		}
		return p
	}
	s := &RedisSentinel{Name: "claims"}
	s.Master = startNode(t, port())
	s.Master.ask(t, "ping")
	host, masterPort, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = startNode(t, port(), "--replicaof", host+" "+masterPort, "--repl-diskless-sync-delay", "0")
	Eventually(t, 20*time.Second, func() (bool, string) {
		info := fmt.Sprint(s.Replica.ask(t, "info", "replication"))
		return strings.Contains(info, "master_link_status:up"), info
	})

	dir, at := t.TempDir(), port()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %d\nsentinel monitor %s %s %s 1\nsentinel down-after-milliseconds %[2]s 500\nsentinel failover-timeout %[2]s 5000\n",
		at, s.Name, host, masterPort)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatalf("testkit: %v", err)
	}
	s.Sentinel = &RedisNode{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(at))}
	s.Sentinel.proc = spawn(t, dir, "sentinel", "redis-server", conf, "--sentinel")
	t.Cleanup(func() { s.Sentinel.Kill(t) })
	Eventually(t, 30*time.Second, func() (bool, string) {
		known := fmt.Sprint(s.Sentinel.ask(t, "sentinel", "replicas", s.Name))
		_, replicaPort, _ := net.SplitHostPort(s.Replica.Addr)
		return strings.Contains(known, replicaPort), "the sentinel does not know the replica yet: " + known
	})
	used.tell("redis     with a replica and a sentinel, owned by a test")
	return s
}

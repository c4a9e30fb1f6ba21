// A Redis with a replica behind one address, as a managed service or a virtual
// address gives it: a failover moves the address.

package testkit

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisPair is a primary with one asynchronous replica, which one test has for
// itself. Use it from the test's goroutine.
type RedisPair struct {
	Addr string // of whoever is the primary

	primary, replica *OwnedRedis
	proxy            *proxy
}

// OwnRedisPair starts the pair. Both must be real: where the machine has no
// redis-server the test is skipped, unless PERDURE_TEST_REQUIRE_REAL=1.
func OwnRedisPair(t testing.TB) *RedisPair {
	t.Helper()
	p := &RedisPair{primary: OwnRedis(t)}
	if !p.primary.Real {
		t.Skipf("miniredis replicates nothing; %s=1 makes this a failure", EnvRequireReal)
	}
	p.replica = OwnRedis(t)
	p.proxy = newProxy(t, p.primary.Addr)
	p.Addr = p.proxy.ln.Addr().String()
	p.follow(t)
	return p
}

// Flush drops every key of the primary, and so of the replica.
func (p *RedisPair) Flush(t testing.TB) { t.Helper(); p.primary.Flush(t) }

// Kill ends the primary with SIGKILL. Nothing is promoted.
func (p *RedisPair) Kill(t testing.TB) { t.Helper(); p.primary.Kill(t) }

// Restart starts the primary again, empty; the replica becomes as empty.
func (p *RedisPair) Restart(t testing.TB) {
	t.Helper()
	p.primary.Restart(t)
	p.follow(t)
}

// Failover kills the primary, promotes the replica with whatever had reached
// it, and lets the address lead there. The killed one comes back as a replica.
func (p *RedisPair) Failover(t testing.TB) {
	t.Helper()
	p.primary.Kill(t)
	p.do(t, p.replica, "REPLICAOF", "NO", "ONE")
	p.primary, p.replica = p.replica, p.primary
	p.proxy.lead(p.primary.Addr)
	p.replica.Restart(t)
	p.follow(t)
}

// follow makes the replica one, and waits until it has the primary's data.
func (p *RedisPair) follow(t testing.TB) {
	t.Helper()
	host, port, err := net.SplitHostPort(p.primary.Addr)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	p.do(t, p.replica, "REPLICAOF", host, port)
	Eventually(t, 10*time.Second, func() (bool, string) {
		info, err := p.info(p.replica)
		return err == nil && strings.Contains(info, "master_link_status:up"), info
	})
}

func (p *RedisPair) info(r *OwnedRedis) (string, error) {
	c := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer c.Close() //nolint:errcheck // only read from
	return c.Info(context.Background(), "replication").Result()
}

func (p *RedisPair) do(t testing.TB, r *OwnedRedis, args ...any) {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer c.Close() //nolint:errcheck // the work is done or has failed
	if err := c.Do(context.Background(), args...).Err(); err != nil {
		t.Fatalf("testkit: redis %s: %v: %v", r.Addr, args, err)
	}
}

// proxy passes connections on to a target that may change.
type proxy struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	p := &proxy{ln: ln, target: target, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		if err := ln.Close(); err != nil {
			t.Errorf("testkit: close the proxy: %v", err)
		}
		p.lead("")
		p.wg.Wait()
	})
	return p
}

// lead changes the target and cuts every connection to the one before.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
	for c := range p.conns {
		c.Close() //nolint:errcheck,gosec // whoever uses it will notice
	}
}

func (p *proxy) serve() {
	for {
		in, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.wg.Go(func() { p.pass(in) })
		}
	}
}

func (p *proxy) pass(in net.Conn) {
	defer in.Close() //nolint:errcheck // cut
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	out, err := net.DialTimeout("tcp", target, time.Second)
	if err != nil {
		return
	}
	defer out.Close() //nolint:errcheck // cut
	p.mu.Lock()
	if target != p.target {
		p.mu.Unlock()
		return
	}
	p.conns[in], p.conns[out] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // an end of either is the end of both
		to.Close()               //nolint:errcheck,gosec // cut
		from.Close()             //nolint:errcheck,gosec // cut
	}
	both.Go(func() { one(out, in) })
	both.Go(func() { one(in, out) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, in)
	delete(p.conns, out)
	p.mu.Unlock()
}

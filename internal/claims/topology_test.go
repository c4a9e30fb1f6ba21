package claims

// Claims on a cluster and behind a sentinel: the same table, and a failover.

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/internal/testkit"
)

// The table of the protocol on a cluster, then a failover of it. The rows'
// prefixes differ, and so their keys lie on all three masters.
func TestCluster(t *testing.T) {
	t.Parallel()
	const tag = "{failover}:inc"
	c := testkit.NewRedisCluster(t, tag)
	rdb := client(t, config.Config{RedisAddrs: c.Addrs()[:1], RedisCluster: true})
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			row.test(tableOn(t, rdb, Config{Prefix: fmt.Sprintf("row%d:", i), Cluster: true}))
		})
	}
	for _, n := range c.Masters {
		if size := dial(t, n.Addr).DBSize(t.Context()).Val(); size == 0 {
			t.Errorf("no key lies on %s: the rows were not spread", n.Addr)
		}
	}
	t.Run("failover", func(t *testing.T) {
		failsOver(t, rdb, Config{Prefix: "failover:", Cluster: true}, c.Owner(t, tag), c.AwaitFailover)
	})
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	s := testkit.NewRedisSentinel(t)
	rdb := client(t, config.Config{RedisAddrs: []string{s.Sentinel.Addr}, RedisMasterName: s.Name})
	failsOver(t, rdb, Config{Prefix: "failover:"}, s.Master, func(testing.TB) {})
}

// failsOver: whatever takes over for a dead master is another server: no verdict
// is given on its word until the store was opened on it, under a new
// incarnation.
func failsOver(t *testing.T, rdb redis.UniversalClient, cfg Config, master *testkit.RedisNode, await func(testing.TB)) {
	t.Helper()
	tb := tableOn(t, rdb, cfg)
	before := tb.run(me, rec(0, 1, 5))
	if n := tb.Incarnation(); n != 1 {
		t.Fatalf("incarnation %d at the start, want 1", n)
	}
	// The replica has it too: what a failover loses is another test's matter.
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		info := dial(t, master.Addr).Info(t.Context(), "replication").Val()
		return strings.Contains(infoField(info, "slave0"), ",offset="+infoField(info, "master_repl_offset")+","), info
	})
	master.Kill(t)
	await(t)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		g, err := tb.Claim(t.Context(), other, []Record{rec(0, 1, 6)}, nil)
		if err == nil {
			t.Fatalf("a verdict (%v) on the word of a server that the store was not opened on", g[0].Verdict)
		}
		return errors.Is(err, ErrLost), "the failover is not noticed: " + err.Error()
	})
	tb.ok(tb.Open(t.Context()))
	if n := tb.Incarnation(); n != 2 {
		t.Errorf("incarnation %d after the failover, want 2", n)
	}
	if _, err := tb.Claim(t.Context(), me, []Record{rec(0, 1, 6)}, nil); !errors.Is(err, ErrPaused) {
		t.Errorf("claiming goes on at once: %v", err)
	}
	tb.ok(rdb.Del(t.Context(), tb.k.hold).Err())
	tb.beat(me)
	tb.beat(other)
	if c := tb.get(); c.State != Running || c.Run != before.Run {
		t.Errorf("the claim did not survive: %+v", c)
	}
	tb.done(me, 0, before.Run)
	tb.want(tb.claim(other, rec(0, 1, 6)), VerdictAck, Done)
}

// client is what a role makes of such settings.
func client(t *testing.T, cfg config.Config) redis.UniversalClient {
	t.Helper()
	rdb, err := service.Redis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

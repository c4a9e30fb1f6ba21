// Redis for a test: an address, and a prefix for its keys.

package testkit

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/embedded"
)

// RedisServer is a test's share of a Redis. A test that flushes or stops its
// Redis needs one of its own: [OwnRedis].
type RedisServer struct {
	Addr   string // host:port
	Prefix string // for every key: "t<random>:"
	Real   bool   // false: miniredis
}

type redisSource struct {
	addr string
	real bool
}

// redisOnce finds or starts the process's Redis.
var redisOnce = sync.OnceValues(func() (redisSource, error) {
	if addr := os.Getenv(EnvRedis); addr != "" {
		version, err := redisVersion(addr)
		if err != nil {
			return redisSource{}, err
		}
		used.tell("redis     %s (redis-server at %s)", version, addr)
		return redisSource{addr, true}, nil
	}
	if requireReal() {
		return redisSource{}, fmt.Errorf("%s=1 and no %s: a test may not fall back to miniredis", EnvRequireReal, EnvRedis)
	}
	r, err := embedded.StartRedis(context.Background(), embedded.RedisConfig{})
	if err != nil {
		return redisSource{}, err
	}
	used.keep(r)
	used.tell("redis     miniredis, embedded")
	return redisSource{r.Addr(), false}, nil
})

// Redis gives the test a Redis and a key prefix of its own. Keys with that
// prefix are removed when the test ends.
func Redis(t testing.TB) RedisServer {
	t.Helper()
	src, err := redisOnce()
	if err != nil {
		t.Fatalf("testkit: redis: %v", err)
	}
	s := RedisServer{Addr: src.addr, Prefix: prefix() + ":", Real: src.real}
	t.Cleanup(func() { removeKeys(t, s) })
	return s
}

// redisVersion reads redis_version from INFO.
func redisVersion(addr string) (string, error) {
	c := redis.NewClient(&redis.Options{Addr: addr})
	defer c.Close() //nolint:errcheck // only read from
	info, err := c.Info(context.Background(), "server").Result()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", addr, err)
	}
	_, rest, ok := strings.Cut(info, "redis_version:")
	if !ok {
		return "", fmt.Errorf("%s tells no redis_version", addr)
	}
	version, _, _ := strings.Cut(rest, "\r\n")
	return version, nil
}

func removeKeys(t testing.TB, s RedisServer) {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer c.Close() //nolint:errcheck // the work is done or has failed
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, s.Prefix+"*", 1000).Result()
		if err == nil && len(keys) > 0 {
			err = c.Unlink(ctx, keys...).Err()
		}
		if err != nil {
			t.Logf("testkit: remove keys of the test: %v", err)
			return
		}
		if cursor = next; cursor == 0 {
			return
		}
	}
}

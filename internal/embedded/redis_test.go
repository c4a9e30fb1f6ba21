package embedded

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestRedisTTLEnds(t *testing.T) {
	r, c := startRedis(t, 0)
	if err := c.Set(t.Context(), "k", "v", 150*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for {
		n, err := c.Exists(t.Context(), "k").Result()
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		if n == 0 {
			if took < 100*time.Millisecond {
				t.Fatalf("a key of 150 ms ended after %v", took)
			}
			break
		}
		if took > 5*time.Second {
			t.Fatal("a key of 150 ms is there after 5 s")
		}
		time.Sleep(10 * time.Millisecond) // poll
	}
	if r.Addr() == "" {
		t.Fatal("no address")
	}
}

func TestRedisStartsEmptyOnTheSamePort(t *testing.T) {
	port, err := FreePort(0)
	if err != nil {
		t.Fatal(err)
	}
	r, c := startRedis(t, port)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, c = startRedis(t, port)
	if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Fatalf("a new Redis has %d keys, %v", n, err)
	}
}

func TestRedisFlushForgets(t *testing.T) {
	r, c := startRedis(t, 0)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r.Flush()
	if n, err := c.DBSize(t.Context()).Result(); err != nil || n != 0 {
		t.Fatalf("%d keys after a flush, %v", n, err)
	}
}

func TestRedisRefusesATakenPort(t *testing.T) {
	r, c := startRedis(t, 0)
	port := r.mini.Server().Addr().Port
	if _, err := StartRedis(t.Context(), RedisConfig{Port: port}); err == nil {
		t.Fatal("two servers on one port")
	}
	if err := c.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

func startRedis(t *testing.T, port int) (*Redis, *redis.Client) {
	t.Helper()
	r, err := StartRedis(t.Context(), RedisConfig{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: r.Addr()})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, c
}

// Embedded Redis: miniredis, with the clock that it lacks.

package embedded

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// redisTick is how often time passes for TTLs, and so how late a key may go.
// miniredis's own ClockTTL would walk over every key at every command; a
// ticker walks over them ten times a second.
const redisTick = 100 * time.Millisecond

// RedisConfig says where an embedded Redis listens. It keeps nothing on disk.
type RedisConfig struct {
	Port int          // loopback port; 0 takes any free one
	Log  *slog.Logger // nil is silent
}

// Redis is an embedded Redis. It starts empty. Its methods may be called
// concurrently.
type Redis struct {
	mini *miniredis.Miniredis
	addr string
	stop chan struct{}
	done chan struct{}
	once sync.Once
}

// StartRedis starts an empty Redis and its clock, and returns when it answers.
func StartRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	mini := miniredis.NewMiniRedis()
	addr := net.JoinHostPort(loopback, strconv.Itoa(cfg.Port))
	if err := mini.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("embedded redis: listen on %s: %w", addr, err)
	}
	r := &Redis{
		mini: mini,
		addr: mini.Addr(),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	go r.runClock()
	if cfg.Log != nil {
		cfg.Log.Debug("embedded redis listens; it keeps nothing on disk", "addr", r.addr)
	}
	return r, nil
}

// Addr is host:port, as PERDURE_REDIS_ADDRS would hold it.
func (r *Redis) Addr() string { return r.addr }

// Flush drops every key, as a Redis that lost its memory.
func (r *Redis) Flush() { r.mini.FlushAll() }

// Close stops the clock, then the server. A second Close does nothing.
func (r *Redis) Close() error {
	r.once.Do(func() {
		close(r.stop)
		<-r.done
		r.mini.Close()
	})
	return nil
}

// runClock ages every TTL by the monotonic time that passed since the last
// tick, so that late ticks do not stretch TTLs.
func (r *Redis) runClock() {
	defer close(r.done)
	ticker := time.NewTicker(redisTick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-r.stop:
			return
		case <-ticker.C:
			now := time.Now()
			r.mini.FastForward(now.Sub(last))
			last = now
		}
	}
}

var _ io.Closer = (*Redis)(nil)

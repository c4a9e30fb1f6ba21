package service

// The Redis client that the environment describes.

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/internal/config"
)

// QuietRedis silences what the Redis client prints by itself when a connection
// fails: each call's error says it too, and is told once. The client keeps one
// printer for the whole process, unguarded: call this first thing in main.
func QuietRedis() { redis.SetLogger(silence{}) }

type silence struct{}

// Printf implements the client's logger.
func (silence) Printf(context.Context, string, ...any) {}

// Redis returns a client for PERDURE_REDIS_*: one server, sentinels or a
// cluster. It connects at first use; the caller closes it.
func Redis(cfg config.Config) (redis.UniversalClient, error) {
	if len(cfg.RedisAddrs) == 0 {
		return nil, fmt.Errorf("redis: PERDURE_REDIS_ADDRS is not set: name a server, or start `perdure up`")
	}
	opts := &redis.UniversalOptions{
		Addrs:         cfg.RedisAddrs,
		Username:      cfg.RedisUsername,
		Password:      cfg.RedisPassword,
		MasterName:    cfg.RedisMasterName,
		IsClusterMode: cfg.RedisCluster,
		ClientName:    "perdure",
		DialTimeout:   3 * time.Second,
	}
	if cfg.RedisTLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if !cfg.RedisCluster && cfg.RedisMasterName == "" && len(cfg.RedisAddrs) > 1 {
		return nil, fmt.Errorf("redis: PERDURE_REDIS_ADDRS names %d servers: set PERDURE_REDIS_MASTER_NAME if they are sentinels, PERDURE_REDIS_CLUSTER=true if they are a cluster", len(cfg.RedisAddrs))
	}
	return redis.NewUniversalClient(opts), nil
}

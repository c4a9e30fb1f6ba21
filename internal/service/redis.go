package service

// The Redis client that the environment describes.

import (
	"context"
	"fmt"
	"strings"
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
		Addrs:      cfg.RedisAddrs,
		Username:   cfg.RedisUsername,
		Password:   cfg.RedisPassword,
		MasterName: cfg.RedisMasterName,

		SentinelUsername: cfg.RedisSentinelUsername,
		SentinelPassword: cfg.RedisSentinelPassword,

		IsClusterMode: cfg.RedisCluster,
		ClientName:    "perdure",
		DialTimeout:   3 * time.Second,
	}
	var err error
	if opts.TLSConfig, err = cfg.RedisTLSConfig(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	if !cfg.RedisCluster && cfg.RedisMasterName == "" && len(cfg.RedisAddrs) > 1 {
		return nil, fmt.Errorf("redis: PERDURE_REDIS_ADDRS names %d servers: set PERDURE_REDIS_MASTER_NAME if they are sentinels, PERDURE_REDIS_CLUSTER=true if they are a cluster", len(cfg.RedisAddrs))
	}
	if cfg.RedisCluster {
		cluster := opts.Cluster()
		cluster.ClusterStateReloadInterval = clusterReload
		return redis.NewClusterClient(cluster), nil
	}
	return redis.NewUniversalClient(opts), nil
}

// clusterReload is how old a cluster client's picture of the nodes may grow. It
// learns of a failover by nothing else: a dead node sends no MOVED, and with the
// client's own minute nothing would be claimed for as long. One CLUSTER SLOTS a
// second costs nothing, and none is sent while nothing is asked.
const clusterReload = time.Second

// ExplainRedis returns a *config.SetupError for what a Redis or its certificate
// refused, with the variable to mend, and any other error as it is.
func ExplainRedis(cfg config.Config, err error) error {
	if err == nil {
		return nil
	}
	if remedy := redisRemedy(cfg, err); remedy != "" {
		return &config.SetupError{Remedy: remedy, Err: err}
	}
	return err
}

func redisRemedy(cfg config.Config, err error) string {
	text := err.Error()
	says := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case cfg.RedisMasterName != "" && says("all sentinels specified in configuration are unreachable") && (says("NOAUTH") || says("WRONGPASS")):
		return "check PERDURE_REDIS_SENTINEL_USERNAME and PERDURE_REDIS_SENTINEL_PASSWORD (or …_FILE): the sentinels' own, not the server's"
	case says("NOAUTH"), says("WRONGPASS"), says("without any password configured"):
		return "check PERDURE_REDIS_USERNAME and PERDURE_REDIS_PASSWORD (or …_FILE)"
	case !cfg.RedisCluster && (strings.HasPrefix(text, "MOVED ") || strings.HasPrefix(text, "CLUSTERDOWN ")):
		return "this server is a node of a cluster: set PERDURE_REDIS_CLUSTER=true"
	case says("cluster support disabled"):
		return "this server is no node of a cluster: unset PERDURE_REDIS_CLUSTER"
	}
	return cfg.RedisTLSRemedy(err)
}

package main

// The servers, and whether they are as durable as the comparison says.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/loadtest/run/usage"
)

type servers struct {
	postgres string // URL
	redis    string
	kafka    []string
}

func serversFromEnv() (servers, error) {
	s := servers{postgres: os.Getenv("PERDURE_POSTGRES_URL"), redis: os.Getenv("PERDURE_REDIS_ADDRS")}
	if k := os.Getenv("PERDURE_KAFKA_BROKERS"); k != "" {
		s.kafka = strings.Split(k, ",")
	}
	if s.postgres == "" || s.redis == "" || len(s.kafka) == 0 || strings.Contains(s.redis, ",") {
		return s, errors.New("name real servers by PERDURE_POSTGRES_URL, PERDURE_REDIS_ADDRS (one) and PERDURE_KAFKA_BROKERS; .ci/servers starts some")
	}
	return s, nil
}

func (s servers) targets() []usage.Target {
	host := "postgres"
	if u, err := url.Parse(s.postgres); err == nil {
		host = u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "5432")
		}
	}
	return []usage.Target{
		{Name: "postgres", Addrs: []string{host}}, {Name: "kafka", Addrs: s.kafka}, {Name: "redis", Addrs: []string{s.redis}},
	}
}

// durable sets Redis's AOF to everysec, for all users of it, and says what each
// server is set to. Postgres is only checked.
func (s servers) durable(ctx context.Context) (lines []string, restore func() error, err error) {
	conn, err := pgx.Connect(ctx, s.postgres)
	if err != nil {
		return nil, nil, fmt.Errorf("postgres: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // only read from
	var version, fsync, commit, pages, buffers, wal string
	if err := conn.QueryRow(ctx, `select current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
		current_setting('shared_buffers'), current_setting('max_wal_size')`).
		Scan(&version, &fsync, &commit, &pages, &buffers, &wal); err != nil {
		return nil, nil, fmt.Errorf("postgres: settings: %w", err)
	}
	if fsync != "on" || commit != "on" {
		return nil, nil, fmt.Errorf("postgres: fsync=%s, synchronous_commit=%s: both must be on", fsync, commit)
	}
	lines = append(lines, fmt.Sprintf("Postgres %s: fsync=%s, synchronous_commit=%s, full_page_writes=%s, shared_buffers=%s, max_wal_size=%s", version, fsync, commit, pages, buffers, wal))

	rdb := redis.NewClient(&redis.Options{Addr: s.redis})
	info, err := rdb.InfoMap(ctx, "server").Result()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("redis: %w", err), rdb.Close())
	}
	old, err := rdb.ConfigGet(ctx, "append*").Result()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("redis: settings: %w", err), rdb.Close())
	}
	for _, kv := range [][2]string{{"appendfsync", "everysec"}, {"appendonly", "yes"}} {
		if err := rdb.ConfigSet(ctx, kv[0], kv[1]).Err(); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("redis: set %s: %w", kv[0], err), rdb.Close())
		}
	}
	lines = append(lines,
		fmt.Sprintf("Redis %s: appendonly=yes, appendfsync=everysec, for both users of it", info["Server"]["redis_version"]),
		fmt.Sprintf("Kafka, %d broker(s): acks=all, idempotent producer", len(s.kafka)))
	return lines, func() error {
		ctx := context.WithoutCancel(ctx)
		return errors.Join(rdb.ConfigSet(ctx, "appendonly", old["appendonly"]).Err(), rdb.ConfigSet(ctx, "appendfsync", old["appendfsync"]).Err(), rdb.Close())
	}, nil
}

// database makes a database and returns what drops it again.
func (s servers) database(ctx context.Context, name string) (own string, drop func() error, err error) {
	u, err := url.Parse(s.postgres)
	if err != nil || u.Scheme == "" {
		return "", nil, errors.New("PERDURE_POSTGRES_URL must be postgres://user@host/database")
	}
	name += "_" + strings.ToLower(rand.Text()[:8])
	exec := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, s.postgres)
		if err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		_, err = conn.Exec(ctx, sql)
		return errors.Join(err, conn.Close(ctx))
	}
	if err := exec(ctx, "create database "+name); err != nil {
		return "", nil, fmt.Errorf("make database %s: %w", name, err)
	}
	u.Path = "/" + name
	return u.String(), func() error {
		return exec(context.WithoutCancel(ctx), "drop database "+name+" with (force)")
	}, nil
}

package app

// The servers of a process: waited for at start, then opened once each.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/service"
)

// need names the servers that a role cannot start without.
type need struct{ postgres, redis, kafka bool }

// connect waits for the servers, bounded, and opens a client for each.
func (p *process) connect(ctx context.Context, n need) error {
	var waits []service.Server
	if n.postgres {
		s, err := postgresServer(p.cfg)
		if err != nil {
			return err
		}
		waits = append(waits, s)
	}
	if n.redis {
		if err := p.openRedis(); err != nil {
			return err
		}
		waits = append(waits, service.Server{Name: "redis", Addr: strings.Join(p.cfg.RedisAddrs, ","), Probe: p.pingRedis})
	}
	if n.kafka {
		if err := p.openKafka(); err != nil {
			return err
		}
		waits = append(waits, p.kafkaServer())
	}
	if err := service.Await(ctx, p.log, service.StartWait, notWorthWaiting, waits...); err != nil {
		return err
	}
	if n.postgres {
		return p.openPostgres(ctx)
	}
	return nil
}

// openPostgres opens the pools; the server has answered already.
func (p *process) openPostgres(ctx context.Context) error {
	var err error
	if p.db, err = p.pool(ctx, "postgres", p.cfg.PostgresURL); err != nil {
		return err
	}
	p.direct = p.db
	if p.cfg.PostgresDirectURL != "" {
		if p.direct, err = p.pool(ctx, "postgres, direct", p.cfg.PostgresDirectURL); err != nil {
			return err
		}
	}
	p.health.Check("postgres", func(ctx context.Context) error { return safePG(p.db.Ping(ctx)) })
	return nil
}

func (p *process) pool(ctx context.Context, name, url string) (*pgxpool.Pool, error) {
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, err
	}
	p.group.Close(name, func() error { pool.Close(); return nil })
	return pool, nil
}

func (p *process) openRedis() error {
	rdb, err := service.Redis(p.cfg)
	if err != nil {
		return err
	}
	p.rdb = rdb
	p.group.Close("redis", rdb.Close)
	p.watch("redis", p.pingRedis)
	return nil
}

func (p *process) pingRedis(ctx context.Context) error {
	where := claims.Config{Prefix: p.cfg.RedisKeyPrefix, Cluster: p.cfg.RedisCluster}
	return service.ExplainRedis(p.cfg, claims.Ping(ctx, p.rdb, where))
}

// openKafka makes the options that every role's client begins with, and a
// client of its own for topics and readiness.
func (p *process) openKafka() error {
	name := p.instance
	if name == "" {
		name = "start"
	}
	opts, err := kafka.ClientOpts(p.cfg, p.role, name, p.log)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	p.kafka, p.client, p.admin = opts, cl, kadm.NewClient(cl)
	p.group.Close("kafka", func() error { cl.Close(); return nil })
	p.watch("kafka", p.pingKafka)
	return nil
}

// watch makes a server part of readiness. A dispatcher only tells it: tasks are
// accepted with Postgres alone, and Redis or Kafka being away must not take
// every dispatcher out of the balancer.
func (p *process) watch(name string, ping func(context.Context) error) {
	if p.role == "dispatcher" {
		p.health.Advise(name, ping)
		return
	}
	p.health.Check(name, ping)
}

// pingKafka asks the brokers themselves: an admin client would answer from its
// cache.
func (p *process) pingKafka(ctx context.Context) error { return kafka.Ping(ctx, p.cfg, p.client) }

func (p *process) kafkaServer() service.Server {
	return service.Server{Name: "kafka", Addr: strings.Join(p.cfg.KafkaBrokers, ","), Probe: p.pingKafka}
}

// awaitKafka is for a role that needs Kafka at start only in some settings.
func (p *process) awaitKafka(ctx context.Context) error {
	return service.Await(ctx, p.log, service.StartWait, notWorthWaiting, p.kafkaServer())
}

// ensureTopics makes the catalog's topics, or checks them, as
// PERDURE_KAFKA_TOPICS says.
func (p *process) ensureTopics(ctx context.Context) error {
	p.settings.Requests = p.client
	left, err := kafka.Ensure(ctx, p.admin, p.catalog, p.settings, p.cfg.KafkaTopics == "check")
	if err != nil {
		return err
	}
	for _, c := range left {
		p.log.Warn("topic differs from the catalog, mend it by hand", "topic", c.Topic, "detail", c.Message)
	}
	return nil
}

// DirectURL is the database without a pooler, for migrations and the relay.
func DirectURL(cfg config.Config) (string, error) {
	switch {
	case cfg.PostgresDirectURL != "":
		return cfg.PostgresDirectURL, nil
	case cfg.PostgresURL != "":
		return cfg.PostgresURL, nil
	}
	return "", errors.New("PERDURE_POSTGRES_URL is not set: name a database, or start `perdure up`")
}

// postgresServer is what Await asks. The address it shows has no password.
func postgresServer(cfg config.Config) (service.Server, error) {
	if cfg.PostgresURL == "" {
		return service.Server{}, errors.New("PERDURE_POSTGRES_URL is not set: name a database, or start `perdure up`")
	}
	cc, err := pgx.ParseConfig(cfg.PostgresURL)
	if err != nil {
		return service.Server{}, fmt.Errorf("PERDURE_POSTGRES_URL: %w", err)
	}
	return service.Server{
		Name: "postgres",
		Addr: net.JoinHostPort(cc.Host, strconv.Itoa(int(cc.Port))),
		Probe: func(ctx context.Context) error {
			conn, err := pgx.ConnectConfig(ctx, cc.Copy())
			if err != nil {
				return safePG(err)
			}
			defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it answered
			return safePG(conn.Ping(ctx))
		},
	}, nil
}

// safePG shortens pgx's connect errors, which repeat user, database and cause
// for each address and TLS mode that was tried, to one cause.
func safePG(err error) error {
	var pe *pgconn.PgError
	var ce *pgconn.ConnectError
	switch {
	case errors.As(err, &pe):
		return pe
	case errors.As(err, &ce):
		_, cause, _ := strings.Cut(ce.Error(), "\n")
		if cause, _, _ = strings.Cut(strings.TrimSpace(cause), "\n"); cause != "" {
			return errors.New(cause)
		}
	}
	return err
}

// notWorthWaiting is true for what Postgres says and time does not heal: a wrong
// password. Redis's and Kafka's refusals are *config.SetupError.
func notWorthWaiting(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code == "28P01" || pe.Code == "28000"
	}
	return false
}

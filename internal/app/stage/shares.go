package stage

// A database, topics and keys of our own on real servers, taken back at the end.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/service"
)

// cleanup bounds taking back each share.
const cleanup = 30 * time.Second

// ownShares keeps us out of everybody's way on servers that are not embedded.
func (s *Stage) ownShares(ctx context.Context) error {
	name := strings.ToLower(rand.Text()[:8])
	if s.cfg.PostgresURL != "" {
		direct, err := app.DirectURL(s.cfg)
		if err != nil {
			return err
		}
		own, err := s.ownDatabase(ctx, direct, "perdure_load_"+name)
		if err != nil {
			return err
		}
		s.cfg.PostgresURL, s.cfg.PostgresDirectURL = own, ""
	}
	if len(s.cfg.KafkaBrokers) > 0 {
		s.cfg.KafkaTopicPrefix += "load-" + name + "-"
		s.later(s.deleteTopics)
	}
	if len(s.cfg.RedisAddrs) > 0 {
		s.cfg.RedisKeyPrefix += "load-" + name + ":"
		s.later(s.deleteKeys)
	}
	return nil
}

// ownDatabase makes a database on the server at admin and returns its URL.
func (s *Stage) ownDatabase(ctx context.Context, admin, name string) (own string, err error) {
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		return "", errors.New("a load test needs PERDURE_POSTGRES_URL in the form postgres://user@host/database")
	}
	exec := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, admin)
		if err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // done with it
		_, err = conn.Exec(ctx, sql)
		return err
	}
	quoted := pgx.Identifier{name}.Sanitize()
	err = exec(ctx, "create database "+quoted)
	if pe := new(pgconn.PgError); errors.As(err, &pe) && pe.Code == "42501" {
		return "", fmt.Errorf("a load test makes a database of its own, so that it disturbs nobody: alter role %s createdb, or name another user: %w", u.User.Username(), err)
	}
	if err != nil {
		return "", fmt.Errorf("make a database for the load test: %w", err)
	}
	s.later(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), cleanup)
		defer cancel()
		if err := exec(ctx, "drop database if exists "+quoted+" with (force)"); err != nil {
			return fmt.Errorf("drop the load test's database %s: %w", name, err)
		}
		return nil
	})
	u.Path = "/" + name
	return u.String(), nil
}

// deleteTopics removes our topics and groups: everything behind our prefix.
func (s *Stage) deleteTopics() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	opts, err := kafka.ClientOpts(s.cfg, "loadtest", "cleanup", silent)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	names := kafka.Names{Prefix: s.cfg.KafkaTopicPrefix}
	var topics []string
	for _, t := range kafka.Topics(s.catalog, kafka.Settings{Names: names}) {
		topics = append(topics, t.Name)
	}
	if _, err := adm.DeleteTopics(ctx, topics...); err != nil {
		return fmt.Errorf("delete the load test's topics (%s…): %w", s.cfg.KafkaTopicPrefix, err)
	}
	if _, err := adm.DeleteGroups(ctx, names.IndexGroup(), names.RetryGroup(), names.WorkerGroup(queue)); err != nil {
		return fmt.Errorf("delete the load test's groups (%s…): %w", s.cfg.KafkaTopicPrefix, err)
	}
	return nil
}

// deleteKeys removes our keys.
func (s *Stage) deleteKeys() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	rdb, err := service.Redis(s.cfg)
	if err != nil {
		return err
	}
	defer rdb.Close() //nolint:errcheck // done with it
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return s.wipe(ctx, c) })
	} else {
		err = s.wipe(ctx, rdb)
	}
	if err != nil {
		return fmt.Errorf("delete the load test's keys (%s*): %w", s.cfg.RedisKeyPrefix, err)
	}
	return nil
}

// wipe unlinks our keys on one node, 1,000 a round trip.
func (s *Stage) wipe(ctx context.Context, c redis.Cmdable) error {
	// In a cluster the prefix stands in a hash tag.
	ours := "*" + strings.TrimSuffix(s.cfg.RedisKeyPrefix, ":") + "*"
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, ours, 1000).Result()
		if err != nil {
			return err
		}
		pipe := c.Pipeline()
		for _, k := range keys {
			pipe.Unlink(ctx, k)
		}
		if len(keys) > 0 {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

package demo

// The demo's own database, topics and keys on real servers.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/examples/disputes"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/service"
)

// cleanup bounds taking back each share.
const cleanup = 30 * time.Second

// createDatabase makes a database on the server at admin and returns its URL
// and what drops it again.
func createDatabase(ctx context.Context, admin, name string) (own string, drop func() error, err error) {
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		return "", nil, errors.New("the demo needs PERDURE_POSTGRES_URL in the form postgres://user@host/database")
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
		return "", nil, fmt.Errorf("the demo makes a database of its own, so that it disturbs nobody: alter role %s createdb, or name another user: %w", u.User.Username(), err)
	}
	if err != nil {
		return "", nil, fmt.Errorf("make a database for the demo: %w", err)
	}
	u.Path = "/" + name
	return u.String(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), cleanup)
		defer cancel()
		if err := exec(ctx, "drop database if exists "+quoted+" with (force)"); err != nil {
			return fmt.Errorf("drop the demo's database %s: %w", name, err)
		}
		return nil
	}, nil
}

// deleteTopics removes the demo's topics and groups.
func (w *world) deleteTopics() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	opts, err := kafka.ClientOpts(w.cfg, "demo", "cleanup", silent)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	cat, err := disputes.Catalog()
	if err != nil {
		return err
	}
	names := kafka.Names{Prefix: w.cfg.KafkaTopicPrefix}
	var topics []string
	for _, t := range kafka.Topics(cat, kafka.Settings{Names: names}) {
		topics = append(topics, t.Name)
	}
	if _, err := adm.DeleteTopics(ctx, topics...); err != nil {
		return fmt.Errorf("delete the demo's topics (%s…): %w", w.cfg.KafkaTopicPrefix, err)
	}
	groups := []string{names.IndexGroup(), names.RetryGroup()}
	for _, q := range cat.QueueNames() {
		groups = append(groups, names.WorkerGroup(q))
	}
	// A static member that was killed keeps its group alive for a session: then
	// the group stays, empty, until the broker forgets it.
	if _, err := adm.DeleteGroups(ctx, groups...); err != nil {
		return fmt.Errorf("delete the demo's groups (%s…): %w", w.cfg.KafkaTopicPrefix, err)
	}
	return nil
}

// deleteKeys removes the demo's keys.
func (w *world) deleteKeys() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	rdb, err := service.Redis(w.cfg)
	if err != nil {
		return err
	}
	defer rdb.Close() //nolint:errcheck // done with it
	wipe := func(ctx context.Context, c redis.Cmdable) error {
		it := c.Scan(ctx, 0, w.cfg.RedisKeyPrefix+"*", 1000).Iterator()
		var keys []string
		for it.Next(ctx) {
			keys = append(keys, it.Val())
		}
		if err := it.Err(); err != nil || len(keys) == 0 {
			return err
		}
		pipe := c.Pipeline()
		for _, k := range keys {
			pipe.Unlink(ctx, k)
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return wipe(ctx, c) })
	} else {
		err = wipe(ctx, rdb)
	}
	if err != nil {
		return fmt.Errorf("delete the demo's keys (%s*): %w", w.cfg.RedisKeyPrefix, err)
	}
	return nil
}

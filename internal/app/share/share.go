// Package share gives a run (the demo, a load test) names of its own on servers
// that others use too: a database, a topic prefix, a key prefix. So it disturbs
// nobody, may be repeated, and takes everything back at the end. It touches
// nothing outside those names.
package share

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/service"
	"github.com/perdure/perdure/schemas"
)

// cleanup bounds taking back each share.
const cleanup = 30 * time.Second

// Take points cfg at shares of the configured servers, named after who ("demo")
// and a random word; embedded ones need none. later is given what takes each
// back, as soon as there is something to take back; catalog, asked only then,
// says which topics and groups there can be.
func Take(ctx context.Context, cfg *config.Config, who string, catalog func() (*schemas.Catalog, error), later func(func() error)) error {
	run := strings.ToLower(rand.Text()[:8])
	if cfg.PostgresURL != "" {
		direct, err := app.DirectURL(*cfg)
		if err != nil {
			return err
		}
		own, drop, err := database(ctx, direct, "perdure_"+who+"_"+run)
		if err != nil {
			return err
		}
		later(drop)
		cfg.PostgresURL, cfg.PostgresDirectURL = own, ""
	}
	// What is taken back is what stands in cfg now, whatever becomes of cfg.
	if len(cfg.KafkaBrokers) > 0 {
		cfg.KafkaTopicPrefix += who + "-" + run + "-"
		mine := *cfg
		later(func() error { return deleteTopics(mine, who, catalog) })
	}
	if len(cfg.RedisAddrs) > 0 {
		cfg.RedisKeyPrefix += who + "-" + run + ":"
		mine := *cfg
		later(func() error { return deleteKeys(mine) })
	}
	return nil
}

// database makes a database on the server at admin and returns its URL and what
// drops it again.
func database(ctx context.Context, admin, name string) (own string, drop func() error, err error) {
	u, err := url.Parse(admin)
	if err != nil || u.Scheme == "" {
		return "", nil, errors.New("this run needs PERDURE_POSTGRES_URL in the form postgres://user@host/database")
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
		return "", nil, fmt.Errorf("this run makes a database of its own, so that it disturbs nobody: alter role %s createdb, or name another user: %w", u.User.Username(), err)
	}
	if err != nil {
		return "", nil, fmt.Errorf("make database %s: %w", name, err)
	}
	u.Path = "/" + name
	return u.String(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), cleanup)
		defer cancel()
		if err := exec(ctx, "drop database if exists "+quoted+" with (force)"); err != nil {
			return fmt.Errorf("drop database %s: %w", name, err)
		}
		return nil
	}, nil
}

// deleteTopics removes the topics and groups behind the prefix.
func deleteTopics(cfg config.Config, who string, catalog func() (*schemas.Catalog, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	cat, err := catalog()
	if err != nil || cat == nil { // it never came to a catalog, so there are no topics
		return err
	}
	opts, err := kafka.ClientOpts(cfg, who, "cleanup", slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka: client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	names := kafka.Names{Prefix: cfg.KafkaTopicPrefix}
	var topics []string
	for _, t := range kafka.Topics(cat, kafka.Settings{Names: names}) {
		topics = append(topics, t.Name)
	}
	if _, err := adm.DeleteTopics(ctx, topics...); err != nil {
		return fmt.Errorf("delete the topics %s…: %w", names.Prefix, err)
	}
	groups := []string{names.IndexGroup(cfg.Source), names.RetryGroup()}
	for _, q := range cat.QueueNames() {
		groups = append(groups, names.WorkerGroup(q))
		if cat.Queues[q].Shared {
			groups = append(groups, names.ShareGroup(q))
		}
	}
	// A static member that was killed keeps its group alive for a session: then
	// the group stays, empty, until the broker forgets it.
	if _, err := adm.DeleteGroups(ctx, groups...); err != nil {
		return fmt.Errorf("delete the groups %s…: %w", names.Prefix, err)
	}
	return nil
}

// deleteKeys removes the keys behind the prefix.
func deleteKeys(cfg config.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanup)
	defer cancel()
	rdb, err := service.Redis(cfg)
	if err != nil {
		return err
	}
	defer rdb.Close() //nolint:errcheck // done with it
	// In a cluster the prefix stands in a hash tag.
	ours := "*" + strings.TrimSuffix(cfg.RedisKeyPrefix, ":") + "*"
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return wipe(ctx, c, ours) })
	} else {
		err = wipe(ctx, rdb, ours)
	}
	if err != nil {
		return fmt.Errorf("delete the keys %s*: %w", cfg.RedisKeyPrefix, err)
	}
	return nil
}

// wipe unlinks the keys that match on one node, about 1,000 a round trip.
func wipe(ctx context.Context, c redis.Cmdable, pattern string) error {
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, pattern, 1000).Result()
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

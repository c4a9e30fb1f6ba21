package main

// Asynq: Redis alone, no transaction with the producer's data; a crash of Redis
// may lose the last second (AOF everysec).

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/loadtest/run"
)

// asynqDB is the number of the Redis database that Asynq gets: its keys have no
// prefix.
const asynqDB = 15

func runAsynq(ctx context.Context, w work, srv servers) (res *result, err error) {
	opt := asynq.RedisClientOpt{Addr: srv.redis, DB: asynqDB}
	clean, err := emptyDB(ctx, srv.redis)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clean()) }()
	concurrency := w.Concurrency
	if concurrency == 0 {
		concurrency = 64
	}
	s := newSeen(w)
	server := asynq.NewServer(opt, asynq.Config{Concurrency: concurrency, TaskCheckInterval: 5 * time.Millisecond, LogLevel: asynq.FatalLevel, Logger: nolog{log.New(io.Discard, "", 0)}})
	err = server.Start(asynq.HandlerFunc(func(_ context.Context, t *asynq.Task) error {
		var a jobArgs
		if err := json.Unmarshal(t.Payload(), &a); err != nil {
			return err
		}
		return s.ran(a.N)
	}))
	if err != nil {
		return nil, fmt.Errorf("asynq: start: %w", err)
	}
	defer server.Shutdown()
	client := asynq.NewClient(opt)
	defer client.Close() //nolint:errcheck // only written to
	inspector := asynq.NewInspector(opt)
	defer inspector.Close() //nolint:errcheck // only read from
	payloads := run.NewPayloads(w.Payload, w.Entropy)
	return w.measure(ctx, peer{
		batch: 1, senders: 8 * w.Producers,
		insert: func(ctx context.Context, first, _ int) error {
			_, err := client.EnqueueContext(ctx, asynq.NewTask("noop", payloads.Append(nil, first)))
			return err
		},
		settled: func(context.Context) (bool, error) {
			q, err := inspector.GetQueueInfo("default")
			return err == nil && q.Pending+q.Active+q.Retry+q.Scheduled == 0, err
		},
	}, s, srv)
}

// emptyDB refuses a Redis database that holds anything, and returns what empties
// it again.
func emptyDB(ctx context.Context, addr string) (clean func() error, err error) {
	rdb := redis.NewClient(&redis.Options{Addr: addr, DB: asynqDB})
	n, err := rdb.DBSize(ctx).Result()
	if err == nil && n > 0 {
		err = fmt.Errorf("redis database %d holds %d keys: Asynq's have no prefix, so it needs an empty one", asynqDB, n)
	}
	if err != nil {
		return nil, errors.Join(err, rdb.Close())
	}
	return func() error {
		err := rdb.FlushDB(context.WithoutCancel(ctx)).Err()
		return errors.Join(err, rdb.Close())
	}, nil
}

// nolog keeps Asynq silent.
type nolog struct{ *log.Logger }

func (l nolog) Debug(args ...any) { l.Print(args...) }
func (l nolog) Info(args ...any)  { l.Print(args...) }
func (l nolog) Warn(args ...any)  { l.Print(args...) }
func (l nolog) Error(args ...any) { l.Print(args...) }

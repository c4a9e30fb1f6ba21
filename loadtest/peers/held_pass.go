package main

// Two outboxes: ours, through `perdure relay`, and one whose rows are deleted as
// they are relayed. Both end in Kafka, acknowledged by all replicas; River's jobs
// are worked off by its own workers.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/loadtest/run"
)

// payloadNumber is the number of the task whose payload this is.
func payloadNumber(payload []byte) string {
	const head = len(`{"n":"`)
	return string(payload[head : head+10])
}

// passOurs is done when the relay has passed every task and its log says so.
func passOurs(ctx context.Context, w work, srv servers, binary string) (res *result, err error) {
	url, drop, err := srv.migrated(ctx, "perdure_held", "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if w.held {
		release, err := hold(ctx, url)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	child, err := startRelay(ctx, binary, url, srv)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, child.stop(srv)) }()
	c, err := client.New(ctx, pool)
	if err != nil {
		return nil, err
	}
	payloads, s := run.NewPayloads(w.Payload, w.Entropy), newSeen(w)
	relayed := 0
	p := peer{batch: w.Batch, senders: w.Producers, insert: enqueueMany(c, payloads), settled: func(ctx context.Context) (bool, error) { return true, child.alive() }}
	if w.over > 0 {
		cl, err := kgo.NewClient(kgo.SeedBrokers(srv.kafka...))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		adm := kadm.NewClient(cl)
		return w.measureOver(ctx, p, url, func(ctx context.Context) (int, error) {
			return records(ctx, adm, child.prefix+"tasks.q")
		})
	}
	p.watch = func(ctx context.Context) error { // the log's ids are as good as the records: Kafka acknowledged them
		var have int
		if err := pool.QueryRow(ctx, `select coalesce(sum(tasks), 0) from perdure.relay_log`).Scan(&have); err != nil {
			return err
		}
		for ; relayed < have; relayed++ {
			if err := s.ran(fmt.Sprint(relayed)); err != nil {
				return err
			}
		}
		return nil
	}
	return w.measure(ctx, p, s, srv)
}

// records is how many a topic has: each offset is one, without transactions.
func records(ctx context.Context, adm *kadm.Client, topic string) (int, error) {
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	n := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil { // else it is not there yet
			n += int(o.Offset)
		}
	})
	return n, nil
}

// enqueueMany inserts tasks first to first+n-1.
func enqueueMany(c *client.Client, payloads *run.Payloads) func(context.Context, int, int) error {
	return func(ctx context.Context, first, n int) error {
		tasks := make([]client.Task, n)
		for i := range tasks {
			tasks[i] = client.Task{Kind: "k", Payload: client.Raw(payloads.Append(nil, first+i))}
		}
		_, err := c.EnqueueMany(ctx, tasks)
		return err
	}
}

// passDeleting takes a thousand rows at a time with DELETE … FOR UPDATE SKIP
// LOCKED, produces them, and commits.
func passDeleting(ctx context.Context, w work, srv servers) (res *result, err error) {
	url, drop, err := srv.migrated(ctx, "perdure_deleting", `create table box (id bigint generated always as identity primary key, payload bytea not null)`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	pool, err := pg.Pool(ctx, url)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if w.held {
		release, err := hold(ctx, url)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	topic := fmt.Sprintf("bench-box-%d", time.Now().UnixNano())
	cl, err := kgo.NewClient(kgo.SeedBrokers(srv.kafka...), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.UnknownTopicRetries(-1)) // the controller knows a topic before the brokers do
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 4, 1, nil, topic); err != nil {
		return nil, err
	}
	defer func() { _, derr := adm.DeleteTopic(context.WithoutCancel(ctx), topic); err = errors.Join(err, derr) }()
	payloads, s := run.NewPayloads(w.Payload, w.Entropy), newSeen(w)
	dctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- relayDeleting(dctx, pool, cl, s) }()
	defer func() {
		cancel()
		if derr := <-ended; !errors.Is(derr, context.Canceled) {
			err = errors.Join(err, derr)
		}
	}()
	p := peer{batch: w.Batch, senders: w.Producers, settled: func(context.Context) (bool, error) { return true, nil }}
	p.insert = func(ctx context.Context, first, n int) error {
		_, err := pool.CopyFrom(ctx, pgx.Identifier{"box"}, []string{"payload"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
			return []any{payloads.Append(nil, first+i)}, nil
		}))
		return err
	}
	if w.over > 0 {
		return w.measureOver(ctx, p, url, s.passed)
	}
	return w.measure(ctx, p, s, srv)
}

// relayDeleting goes on until ctx ends.
func relayDeleting(ctx context.Context, pool *pgxpool.Pool, cl *kgo.Client, s *seen) error {
	for {
		n := 0
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `delete from box where id in (select id from box order by id limit 1000 for update skip locked) returning payload`)
			if err != nil {
				return err
			}
			payloads, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
			if err != nil {
				return err
			}
			n = len(payloads)
			records := make([]*kgo.Record, n)
			for i, p := range payloads {
				records[i] = kgo.SliceRecord(p)
			}
			if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
				return err
			}
			for _, p := range payloads {
				if err := s.ran(payloadNumber(p)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n == 0 {
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
	}
}

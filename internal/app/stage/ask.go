package stage

// What a run asks of the system that it loads.

import (
	"context"
	"fmt"
	"math/bits"
	"net"
	"path/filepath"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/loadtest/run"
)

// generation of a new database's outbox.
const generation = 1

// Enqueue implements run.System.
func (s *Stage) Enqueue(ctx context.Context, tasks []client.Task) error {
	refs, err := s.client.EnqueueMany(ctx, tasks)
	if err != nil || len(refs) == 0 {
		return err
	}
	last := refs[len(refs)-1].Seq // they are in order
	for old := s.highest.Load(); last > old && !s.highest.CompareAndSwap(old, last); {
		old = s.highest.Load()
	}
	return nil
}

// Done implements run.System: it counts the done bits of all that was accepted.
func (s *Stage) Done(ctx context.Context) (n int, err error) {
	for chunk := range s.highest.Load()/claims.ChunkBits + 1 {
		b, err := s.claims.DoneBits(ctx, source, generation, chunk)
		if err != nil {
			return 0, err
		}
		for _, v := range b {
			n += bits.OnesCount8(v)
		}
	}
	return n, nil
}

// Lag implements run.System.
func (s *Stage) Lag(ctx context.Context) (int64, error) {
	names := kafka.Names{Prefix: s.cfg.KafkaTopicPrefix}
	group := names.WorkerGroup(queue)
	ends, err := s.admin.ListEndOffsets(ctx, names.Tasks(queue))
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("kafka: end of queue %s: %w", queue, err)
	}
	committed, err := s.admin.FetchOffsets(ctx, group)
	if err != nil {
		return 0, fmt.Errorf("kafka: offsets of group %s: %w", group, err)
	}
	var lag int64
	for _, end := range ends.Offsets().Sorted() {
		at, _ := committed.Lookup(end.Topic, end.Partition) // zero where none is committed
		lag += end.At - max(0, at.At)
	}
	return lag, nil
}

// Kafka implements run.System.
func (s *Stage) Kafka() *run.Baseline {
	return &run.Baseline{Opts: s.kafka, Topic: s.cfg.KafkaTopicPrefix + "loadtest-alone"}
}

// Servers implements run.System.
func (s *Stage) Servers() []run.Server {
	pgHost := "postgres"
	if cc, err := pgx.ParseConfig(s.cfg.PostgresURL); err == nil { // it was connected to: it parses
		port := strconv.Itoa(int(cc.Port))
		pgHost = net.JoinHostPort(cc.Host, port)
		if filepath.IsAbs(cc.Host) {
			pgHost = filepath.Join(cc.Host, ".s.PGSQL."+port)
		}
	}
	return []run.Server{
		{Name: "postgres", Addr: s.node.Postgres.Addr, Detail: s.node.Postgres.Detail, Embedded: s.node.Postgres.Embedded, Listens: []string{pgHost}},
		{Name: "kafka", Addr: s.node.Kafka.Addr, Detail: s.node.Kafka.Detail, Embedded: s.node.Kafka.Embedded, Listens: s.cfg.KafkaBrokers, InUs: s.node.Kafka.Embedded},
		{Name: "redis", Addr: s.node.Redis.Addr, Detail: s.node.Redis.Detail, Embedded: s.node.Redis.Embedded, Listens: s.cfg.RedisAddrs, InUs: s.node.Redis.Embedded},
	}
}

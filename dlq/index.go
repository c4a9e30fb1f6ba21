package dlq

// Index: the dead-letter and event topics of the catalog, copied into Postgres.

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Config of an Index. Zero values mean the defaults.
type Config struct {
	Source     string        // PERDURE_SOURCE: whose tasks are kept; "" = everybody's
	Instance   string        // static member id of the consumer group, "" = dynamic
	History    time.Duration // how long events are kept; default 168h
	PruneEvery time.Duration // default 10 minutes
	BatchSize  int           // records a transaction; default 1000

	Who      string                  // of Reindex: who asked for it, for the audit
	Progress func(read, total int64) // of Reindex: offsets, after each batch; nil = nobody is told
}

// Deps are what an Index uses and does not own.
type Deps struct {
	DB       *pgxpool.Pool
	Kafka    []kgo.Opt // brokers, TLS, SASL, client id
	Names    kafka.Names
	Catalog  *schemas.Catalog
	Log      *slog.Logger          // nil = silent
	Registry prometheus.Registerer // nil = no metrics
}

// Index copies letters, resolutions and events from Kafka into Postgres, each
// once however often it is read, and commits an offset only after Postgres has
// its row. Any number of processes may run one; they share the partitions.
type Index struct {
	cfg     Config
	deps    Deps
	queues  map[string]string // dead-letter topic → queue
	events  map[string]bool   // event topics
	metrics *metrics
	log     *slog.Logger
	session *session // of a Reindex; nil: deps.DB, and letters are open when they are new
	texts   *texts
	swept   [len(sweeps)]swept
}

// NewIndex returns an Index over the queues of deps.Catalog.
func NewIndex(cfg Config, deps Deps) (*Index, error) {
	if deps.DB == nil || deps.Catalog == nil {
		return nil, errors.New("dlq index: it needs a database and a catalog")
	}
	if cfg.History <= 0 {
		cfg.History = 168 * time.Hour
	}
	if cfg.PruneEvery <= 0 {
		cfg.PruneEvery = 10 * time.Minute
	}
	if cfg.BatchSize <= 0 {
		cfg.BatchSize = 1000
	}
	x := &Index{cfg: cfg, deps: deps, queues: map[string]string{}, events: map[string]bool{}, log: deps.Log, texts: &texts{}}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	for q := range deps.Catalog.Queues {
		x.queues[deps.Names.DLQ(q)] = q
		x.events[deps.Names.Events(q)] = true
	}
	var err error
	if x.metrics, err = newMetrics(deps.Registry); err != nil {
		return nil, err
	}
	return x, nil
}

// Run consumes until ctx ends, and then returns nil. With Postgres away it
// waits, holding its place; with Kafka away its client tries on by itself.
func (x *Index) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { x.foldGroups(ctx) })
	beside.Go(func() {
		if err := x.tellTexts(ctx); err != nil && ctx.Err() == nil {
			x.log.Warn("dlq index: cannot make old causes searchable by their text; the next start tries again", "err", err)
		}
		x.prune(ctx)
	})
	defer func() { cancel(); beside.Wait() }()
	for ctx.Err() == nil {
		if err := x.consume(ctx); err != nil {
			return err
		}
	}
	return nil
}

// consume is Run until ctx ends, or another topic has the name of one that is read.
func (x *Index) consume(ctx context.Context) error {
	ids := kafka.NewTopicIDs(x.group())
	opts := append(append(append(ids.Opts(), kgo.FetchMaxWait(time.Second)), x.deps.Kafka...), // five of them until the client tells of an unknown id
		kgo.ConsumerGroup(x.group()),
		kgo.ConsumeTopics(x.topics()...),
		// Nothing is skipped but by passGaps, which says so.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(10*time.Second), // how long a killed index keeps its partitions from the others
		kgo.HeartbeatInterval(2*time.Second),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
		kgo.MetadataMaxAge(10*time.Second), // a topic made later is found soon
	)
	if x.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID(x.cfg.Instance))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("dlq index: kafka client: %w", err)
	}
	defer cl.CloseAllowingRebalance()

	for ctx.Err() == nil {
		fetches := poll(ctx, cl, ids, writers*x.cfg.BatchSize)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return nil
		}
		replaced, unknown := ids.Fetched(ctx, fetches)
		if replaced != "" {
			x.log.Warn("dlq index: a topic was deleted and made again: what the old one had and nobody read is lost; reads the new one from its beginning", "topic", replaced)
			return nil
		}
		for _, topic := range unknown {
			x.log.Warn("dlq index: cannot read; tries on", "topic", topic, "err", kerr.UnknownTopicID)
		}
		gaps := map[string][]int32{}
		fetches.EachError(func(topic string, p int32, err error) {
			if isGap(err) {
				gaps[topic] = append(gaps[topic], p)
				return
			}
			if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, context.DeadlineExceeded) {
				return // said above; nothing came
			}
			x.log.Warn("dlq index: cannot read; tries on", "topic", topic, "partition", p, "err", err)
		})
		records := fetches.Records()
		if len(records) > 0 && x.storeBeside(ctx, fetches) {
			if err := cl.CommitRecords(ids.Commits(ctx), records...); err != nil && ctx.Err() == nil {
				// They will be read again, and change nothing then.
				x.log.Warn("dlq index: cannot commit offsets; these records will be read again", "records", len(records), "err", err)
			}
		}
		if len(gaps) > 0 && ctx.Err() == nil {
			if err := x.passGaps(ids.Commits(ctx), cl, gaps); err != nil {
				x.log.Warn("dlq index: a log no longer has what comes next, and where it begins cannot be seen; tries on", "err", err)
				select { // the same comes again at once
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		}
		cl.AllowRebalance()
	}
	return nil
}

// poll returns soon where a topic may have been replaced, which may be said but once.
func poll(ctx context.Context, cl *kgo.Client, ids *kafka.TopicIDs, most int) kgo.Fetches {
	if ids.Doubts() {
		select { // the client says the same again at once
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		soon, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		ctx = soon
	}
	return cl.PollRecords(ctx, most)
}

// writers is how many transactions are under way at once.
const writers = 2

var writerSeed = maphash.MakeSeed()

// storeBeside shares what was fetched among the writers, and reports false if one of
// them did not write its part. What is fetched at once is mostly of one partition, so it
// is shared by the records' keys: letters of one task, or of one key, and a key's answers
// have one writer, in their order. A resolution may lie elsewhere (of a record that its
// worker could not read again), so those are written first: whoever writes a letter then
// sees its own.
func (x *Index) storeBeside(ctx context.Context, fetches kgo.Fetches) bool {
	var resolutions []*kgo.Record
	var parts [writers][]*kgo.Record
	fetches.EachRecord(func(r *kgo.Record) {
		if _, dead := x.queues[r.Topic]; dead && isResolution(r) {
			resolutions = append(resolutions, r)
			return
		}
		i := uint64(r.Offset)
		if len(r.Key) > 0 {
			i = maphash.Bytes(writerSeed, r.Key)
		}
		parts[i%writers] = append(parts[i%writers], r)
	})
	for part := range slices.Chunk(resolutions, x.cfg.BatchSize) {
		if !x.storeAll(ctx, part) {
			return false
		}
	}
	var wg sync.WaitGroup
	var failed atomic.Bool
	for _, records := range parts {
		wg.Go(func() {
			for part := range slices.Chunk(records, x.cfg.BatchSize) {
				if !x.storeAll(ctx, part) {
					failed.Store(true)
					return
				}
			}
		})
	}
	wg.Wait()
	return !failed.Load()
}

// storeAll writes a batch, however long Postgres is away. It reports false only
// if ctx ended before the batch was committed.
func (x *Index) storeAll(ctx context.Context, records []*kgo.Record) bool {
	b := x.rows(records)
	again, cleaned := false, false
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := x.store(ctx, b)
		if err == nil {
			x.metrics.stored(b)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if isRival(err) && !again {
			again = true
			continue // another process has written one of the letters: now it is seen
		}
		if badData(err) {
			// A value that Postgres refuses must not stall the rest: find it.
			if len(records) > 1 {
				half := len(records) / 2
				return x.storeAll(ctx, records[:half]) && x.storeAll(ctx, records[half:])
			}
			if len(b.letters) == 1 && !cleaned {
				cleaned = true // its history is kept as it was written where it looks like ours
				b.letters[0].attempts = EncodeAttempts(b.letters[0].Attempts, MaxAttempts)
				continue
			}
			b = x.plain(records[0], err)
			continue
		}
		x.metrics.failures.Inc()
		x.log.Warn("dlq index: cannot write to Postgres; waits and tries again", "records", len(records), "wait", wait, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

func (x *Index) topics() []string {
	topics := make([]string, 0, 2*len(x.queues))
	for t := range x.queues {
		topics = append(topics, t)
	}
	for t := range x.events {
		topics = append(topics, t)
	}
	return topics
}

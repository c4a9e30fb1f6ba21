package dlq

// The index again from Kafka: every letter and resolution that it still has.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Reindexed is what a Reindex read and wrote.
type Reindexed struct {
	Topics      int   `json:"topics"`
	Records     int64 `json:"records"`
	Letters     int64 `json:"letters" doc:"records that are letters, also repeated ones"`
	Resolutions int64 `json:"resolutions"`
	Restored    int64 `json:"restored" doc:"letters that the index did not have"`
}

// Reindex reads the dead-letter topics from their beginning to their end of now,
// and writes what the index lacks, as Run would have. It needs no consumer group, so
// that a running index goes on beside it, and changes nothing that is there: what
// people and replays did stays. Letters that are restored get the state that the
// audit knows: see decided.go.
func (x *Index) Reindex(ctx context.Context) (done Reindexed, err error) {
	topics := make([]string, 0, len(x.queues))
	for t := range x.queues {
		topics = append(topics, t)
	}
	done.Topics = len(topics)
	x, ctx, end, err := x.deciding(ctx)
	if err != nil {
		return done, fmt.Errorf("dlq reindex: %w", err)
	}
	defer end()
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), x.deps.Kafka...),
		kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(4<<20),
		kgo.KeepControlRecords())...) // the last offset may be one's
	if err != nil {
		return done, fmt.Errorf("dlq reindex: kafka client: %w", err)
	}
	defer cl.Close()
	left, total, err := assignWhole(ctx, cl, topics)
	if err != nil {
		return done, fmt.Errorf("dlq reindex: %w", err)
	}
	for len(left) > 0 {
		fetches, err := pollWhole(ctx, cl, x.cfg.BatchSize, left)
		if err != nil {
			return done, fmt.Errorf("dlq reindex: read Kafka after %d records: %w", done.Records, err)
		}
		var records []*kgo.Record
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			at := partition{p.Topic, p.Partition}
			end, wanted := left[at]
			for _, r := range p.Records {
				if wanted && r.Offset < end && !r.Attrs.IsControl() {
					records = append(records, r)
				}
			}
			if n := len(p.Records); wanted && n > 0 && p.Records[n-1].Offset+1 >= end {
				delete(left, at)
			}
		})
		if err := x.restore(ctx, records, &done); err != nil {
			return done, err
		}
		if x.cfg.Progress != nil {
			x.cfg.Progress(done.Records, total)
		}
	}
	if _, err := x.deps.DB.Exec(ctx, auditIndex, x.cfg.Who, "dlq.reindex", done); err != nil {
		return done, fmt.Errorf("dlq reindex: audit: %w", err)
	}
	return done, nil
}

const auditIndex = `insert into perdure.audit (who, what, details) values ($1, $2, $3::jsonb)`

// Recount counts the failure groups anew, for whoever wrote letters around the triggers,
// as a restore of data alone does. No letter is written meanwhile: at ten million letters
// for more than 10 s.
func Recount(ctx context.Context, db *pgxpool.Pool, who string) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, auditIndex, who, "dlq.recount", struct{}{}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `select perdure.recount_groups()`)
		return err
	})
	if err != nil {
		return fmt.Errorf("dlq recount: %w", err)
	}
	return nil
}

// quiet is how long Kafka may give nothing before it is asked what it still has.
const quiet = 5 * time.Second

// pollWhole polls. Where nothing comes, partitions whose rest retention has deleted
// since they were counted are taken out of left.
func pollWhole(ctx context.Context, cl *kgo.Client, n int, left map[partition]int64) (kgo.Fetches, error) {
	one, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	fetches := cl.PollRecords(one, n)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	switch {
	case one.Err() == nil:
		return fetches, fetches.Err()
	case fetches.NumRecords() > 0:
		return fetches, nil // the error beside them is of the wait alone, or comes again
	}
	topics := map[string]bool{}
	for at := range left {
		topics[at.topic] = true
	}
	starts, err := kadm.NewClient(cl).ListStartOffsets(ctx, slices.Collect(maps.Keys(topics))...)
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, err
	}
	for at, end := range left {
		if s, ok := starts.Lookup(at.topic, at.n); ok && s.Offset >= end {
			delete(left, at)
		}
	}
	return nil, nil
}

type partition struct {
	topic string
	n     int32
}

// assignWhole has cl read the topics from their beginning, and returns where each
// partition that holds something ends, and how many offsets there are.
func assignWhole(ctx context.Context, cl *kgo.Client, topics []string) (left map[partition]int64, total int64, err error) {
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, 0, fmt.Errorf("list offsets: %w", err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, topics...)
	if err = errors.Join(err, starts.Error(), ends.Error()); err != nil {
		return nil, 0, fmt.Errorf("list offsets: %w", err)
	}
	left = map[partition]int64{}
	from := map[string]map[int32]kgo.Offset{}
	starts.Each(func(s kadm.ListedOffset) {
		end, ok := ends.Lookup(s.Topic, s.Partition)
		if !ok || end.Offset <= s.Offset {
			return
		}
		left[partition{s.Topic, s.Partition}] = end.Offset
		total += end.Offset - s.Offset
		if from[s.Topic] == nil {
			from[s.Topic] = map[int32]kgo.Offset{}
		}
		from[s.Topic][s.Partition] = kgo.NewOffset().At(s.Offset)
	})
	cl.AddConsumePartitions(from)
	return left, total, nil
}

func (x *Index) restore(ctx context.Context, records []*kgo.Record, done *Reindexed) error {
	if len(records) == 0 {
		return nil
	}
	b := x.rows(records)
	ids := b.ids()
	var known int64
	const count = `select count(*) from perdure.letters where letter = any($1::text[])`
	if err := x.deps.DB.QueryRow(ctx, count, ids).Scan(&known); err != nil {
		return fmt.Errorf("dlq reindex: look for %d letters: %w", len(ids), err)
	}
	if !x.storeAll(ctx, records) {
		return fmt.Errorf("dlq reindex: stopped after %d records: %w", done.Records, context.Cause(ctx))
	}
	var now int64
	if err := x.deps.DB.QueryRow(ctx, count, ids).Scan(&now); err != nil {
		return fmt.Errorf("dlq reindex: look for %d letters: %w", len(ids), err)
	}
	done.Records += int64(len(records))
	done.Letters += int64(len(b.letters))
	done.Resolutions += int64(len(b.resolved))
	done.Restored += now - known
	return nil
}

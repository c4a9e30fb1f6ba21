package relay

// Work beside the passes that needs no fence: rows nobody asks for any more, and
// finished records of task topics.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Deleted in small steps, so that no statement holds locks or a snapshot for long.
const (
	pruneStep = 5000
	pruneLog  = `delete from perdure.relay_log where batch in (
  select batch from perdure.relay_log where relayed_at < now() - $1::interval order by relayed_at limit $2)`
	// By statement_timestamp(): by a clock that moves within the statement no index is read.
	pruneKeys = `delete from perdure.unique_keys k using (
  select scope, key from perdure.unique_keys where expires < statement_timestamp()
  order by expires limit $1 for update skip locked) old
where k.scope = old.scope and k.key = old.key`
)

// runChores prunes, nudges and trims until ctx ends. What fails is told and tried again.
func (r *Relay) runChores(ctx context.Context, cl *kgo.Client) {
	adm := kadm.NewClient(cl)
	tick := time.NewTicker(r.cfg.Upkeep)
	defer tick.Stop()
	trim := time.Time{}
	var nudger kafka.Nudger
	for {
		if err := r.prune(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot prune, trying again", "cause", err)
		}
		if err := r.nudge(ctx, cl, &nudger); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot see whether the lag of a shared queue stands still, trying again", "cause", err)
		}
		if time.Since(trim) >= r.cfg.Trim {
			trim = time.Now()
			if err := r.trim(ctx, adm); err != nil && ctx.Err() == nil {
				r.log.Warn("cannot trim task topics, trying again", "cause", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Relay) prune(ctx context.Context) error {
	for n := int64(pruneStep); n == pruneStep; {
		tag, err := r.deps.DB.Exec(ctx, pruneLog, interval(r.cfg.History), pruneStep)
		if err != nil {
			return fmt.Errorf("postgres: prune the relay log: %w", err)
		}
		n = tag.RowsAffected()
	}
	for n := int64(pruneStep); n == pruneStep; {
		tag, err := r.deps.DB.Exec(ctx, pruneKeys, pruneStep)
		if err != nil {
			return fmt.Errorf("postgres: prune idempotency keys: %w", err)
		}
		n = tag.RowsAffected()
	}
	return nil
}

// nudge looks whether the lag of a shared queue stands still. Relays of other sources do
// so, too: a nudge more does no harm.
func (r *Relay) nudge(ctx context.Context, cl *kgo.Client, nudger *kafka.Nudger) error {
	for topic, group := range kafka.ShareGroups(r.deps.Catalog, r.deps.Names) {
		n, err := nudger.Look(ctx, cl, group, topic)
		if err != nil {
			return err
		}
		if n > 0 {
			r.log.Debug("nudged a share group whose lag stands still", "group", group, "partitions", n)
			r.metrics.nudges.Add(float64(n))
		}
	}
	return nil
}

// trim deletes records of tasks.* that lie below the offset that the queue's
// workers committed and are older than the queue's retention, and of retry.*
// those moved back that are older than the longest retention.
func (r *Relay) trim(ctx context.Context, adm *kadm.Client) error {
	var longest time.Duration
	for _, name := range r.deps.Catalog.QueueNames() {
		q := r.deps.Catalog.Queues[name]
		longest = max(longest, q.Retention)
		if err := r.trimQueue(ctx, adm, q); err != nil {
			return err
		}
	}
	return r.trimTopics(ctx, adm, r.deps.Names.RetryGroup(), longest, r.retryTopics()...)
}

func (r *Relay) trimQueue(ctx context.Context, adm *kadm.Client, q *schemas.Queue) error {
	topic := r.deps.Names.Tasks(q.Name)
	if !q.Shared {
		return r.trimTopics(ctx, adm, r.deps.Names.WorkerGroup(q.Name), q.Retention, topic)
	}
	progress, err := kafka.ShareProgress(ctx, adm, r.deps.Names.ShareGroup(q.Name), topic)
	if err != nil {
		return err
	}
	finished := kadm.OffsetResponses{}
	for partition, at := range progress {
		finished.Add(kadm.OffsetResponse{Offset: kadm.Offset{Topic: topic, Partition: partition, At: at.Start}})
	}
	return r.trimBelow(ctx, adm, finished, q.Retention, topic)
}

func (r *Relay) trimTopics(ctx context.Context, adm *kadm.Client, group string, age time.Duration, names ...string) error {
	committed, err := kafka.Committed(ctx, adm, group, names...)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil // no worker yet
	}
	if err != nil {
		return fmt.Errorf("kafka: offsets of group %s: %w", group, err)
	}
	return r.trimBelow(ctx, adm, committed, age, names...)
}

// trimBelow deletes records that lie below the given offsets and are older than age.
func (r *Relay) trimBelow(ctx context.Context, adm *kadm.Client, committed kadm.OffsetResponses, age time.Duration, names ...string) error {
	// The first record younger than age; the end, if there is none.
	young, err := adm.ListOffsetsAfterMilli(ctx, time.Now().Add(-age).UnixMilli(), names...)
	if err != nil {
		return fmt.Errorf("kafka: offsets by time: %w", err)
	}
	starts, err := adm.ListStartOffsets(ctx, names...)
	if err != nil {
		return fmt.Errorf("kafka: start offsets: %w", err)
	}
	below := kadm.Offsets{}
	committed.Each(func(c kadm.OffsetResponse) {
		y, ok := young.Lookup(c.Topic, c.Partition)
		s, has := starts.Lookup(c.Topic, c.Partition)
		if !ok || !has || c.Err != nil || y.Err != nil || s.Err != nil || c.At < 0 {
			return // never committed: nothing is known to be finished
		}
		if at := min(c.At, y.Offset); at > s.Offset {
			below.AddOffset(c.Topic, c.Partition, at, -1)
		}
	})
	if len(below) == 0 {
		return nil
	}
	done, err := adm.DeleteRecords(ctx, below)
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		return fmt.Errorf("kafka: delete finished records of %v: %w", names, err)
	}
	r.log.Info("trimmed finished records", "topics", names)
	return nil
}

package dispatcher

// What waits for a queue's workers, counted where it waits.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/tracker"
)

// countUpTo bounds the counting in Postgres: beyond it the backlog is only
// known to be that large.
const countUpTo = 100_000

// sqlWaiting counts what the relay has not moved yet and may: the rows that it
// would read now (as PROTOCOL's two ways have it), those of the scheduled ones that
// are due and leave next, and parked ones. Without a relay so far that is every row.
const sqlWaiting = `
with s as materialized (
  select coalesce(c.prev, '3:3:'::pg_snapshot) as prev, coalesce(c.at_id, 0) as at_id, c.upto as target
    from perdure.source src left join perdure.relay_cursor c on c.shard = src.source),
waiting as (
  (select o.created_at as since, coalesce(cardinality(o.ends), 1) as tasks from s, perdure.outbox o
    where o.xid >= pg_snapshot_xmax(s.prev) and o.queue = $1 and (o.run_at is null or o.run_at <= clock_timestamp())
      and (s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(o.xid, s.target)) limit $2)
  union all
  (select o.created_at, coalesce(cardinality(o.ends), 1) from s, pg_snapshot_xip(s.prev) x join perdure.outbox o on o.xid = x
    where o.queue = $1 and (o.run_at is null or o.run_at <= clock_timestamp())
      and (s.target is null or o.id > s.at_id or not pg_visible_in_snapshot(x, s.target)) limit $2)
  union all
  select due, 1 from (select due, queue from perdure.scheduled where due <= now() order by due, id limit $2) first where queue = $1
  union all
  (select created_at, 1 from perdure.parked where queue = $1 order by id limit $2))
select coalesce(sum(tasks), 0)::bigint, greatest(coalesce(extract(epoch from clock_timestamp() - min(since)), 0), 0)::float8 from waiting`

func (s *scaling) waitingInPostgres(ctx context.Context, queue string, into *sample) error {
	err := s.db.QueryRow(ctx, sqlWaiting, queue, countUpTo).Scan(&into.tasks, &into.oldest)
	if err != nil {
		return fmt.Errorf("count what waits in the outbox for queue %s: %w", queue, err)
	}
	return nil
}

// waitingInKafka adds what the queue's group has not committed on its topic, less what
// its commits say is done beyond them: one slow task may have thousands behind it. The
// backlog is too high by what was done since. Retries that wait for their time in
// retry.* do not count.
func (s *scaling) waitingInKafka(ctx context.Context, queue string, into *sample) error {
	topic, group := s.names.Tasks(queue), s.names.WorkerGroup(queue)
	starts, err := s.kafka.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil // not made yet: nothing is there, and nobody reads it
	}
	if err != nil {
		return fmt.Errorf("first offsets of %s: %w", topic, err)
	}
	ends, err := s.kafka.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("end offsets of %s: %w", topic, err)
	}
	if s.cat.Queues[queue].Shared {
		return s.waitingShared(ctx, queue, starts[topic], ends[topic], into)
	}
	committed, err := kafka.Committed(ctx, s.kafka, group, topic)
	if err == nil {
		err = committed.Error()
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return fmt.Errorf("committed offsets of %s: %w", group, err)
	}
	behind := map[int32]int64{} // first offset that is not committed
	for p, end := range ends[topic] {
		at, done := starts[topic][p].Offset, int64(0)
		if c, ok := committed.Lookup(topic, p); ok && c.At > at { // below it: trimmed
			at, done = c.At, min(tracker.DoneBeyond(c.Metadata, c.At), max(end.Offset-c.At, 0))
		}
		into.produced += end.Offset
		into.committed += at + done
		if at+done < end.Offset {
			behind[p] = at
			into.tasks += end.Offset - at - done
		}
	}
	if into.workers, err = s.workers(ctx, group); err != nil {
		return err
	}
	if len(behind) == 0 {
		return nil
	}
	age, err := s.oldest(ctx, topic, behind, into.at)
	into.oldest = max(into.oldest, age)
	return err
}

// waitingShared is waitingInKafka for a queue with delivery: shared: what its
// share group has not acknowledged, exactly where Kafka tells.
func (s *scaling) waitingShared(ctx context.Context, queue string, starts, ends map[int32]kadm.ListedOffset, into *sample) error {
	topic, group := s.names.Tasks(queue), s.names.ShareGroup(queue)
	progress, err := kafka.ShareProgress(ctx, s.kafka, group, topic)
	if err != nil {
		return err
	}
	behind := map[int32]int64{}
	for p, end := range ends {
		at := starts[p].Offset
		left := end.Offset - at
		if done, ok := progress[p]; ok && done.Below >= 0 {
			at = max(at, done.Below)
			if left = end.Offset - at; done.Left >= 0 {
				left = min(left, done.Left)
			}
		}
		into.produced += end.Offset
		into.committed += end.Offset - left
		into.tasks += left
		if left > 0 {
			behind[p] = at
		}
	}
	if into.workers, err = kafka.ShareMembers(ctx, s.kafka, group); err != nil || len(behind) == 0 {
		return err
	}
	age, err := s.oldest(ctx, topic, behind, into.at)
	into.oldest = max(into.oldest, age)
	return err
}

func (s *scaling) workers(ctx context.Context, group string) (int, error) {
	groups, err := s.kafka.DescribeGroups(ctx, group)
	if err != nil {
		return 0, fmt.Errorf("members of group %s: %w", group, err)
	}
	return len(groups[group].Members), nil // a group that never was has none
}

// oldest is the age, in seconds, of the oldest record at the given offsets, to
// about a tenth. Kafka answers "the first offset at or after this time", so the
// age is searched: by doubling, then between.
func (s *scaling) oldest(ctx context.Context, topic string, behind map[int32]int64, now time.Time) (float64, error) {
	young := func(age float64) (bool, error) { // none is older than age
		at := now.Add(-time.Duration(age * float64(time.Second)))
		found, err := s.kafka.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topic)
		if err == nil {
			err = found.Error()
		}
		if err != nil {
			return false, fmt.Errorf("offsets of %s at a time: %w", topic, err)
		}
		for p, first := range behind {
			if o, ok := found[topic][p]; ok && o.Offset > first {
				return false, nil
			}
		}
		return true, nil
	}
	low, high := 0.0, 1.0
	for high < 1<<24 { // half a year
		ok, err := young(high)
		if err != nil {
			return 0, err
		}
		if ok {
			break
		}
		low, high = high, 4*high
	}
	for high-low > 0.1*high && high > 0.5 {
		mid := (low + high) / 2
		ok, err := young(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			high = mid
		} else {
			low = mid
		}
	}
	return high, nil
}

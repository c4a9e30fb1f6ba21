package dlq

// Pruning: finished letters by their queue's dlq_retention, events by HISTORY.
// A letter that nobody has finished is never removed by age. The sweep is done beside it.

import (
	"context"
	"errors"
	"time"

	"github.com/perdure/perdure/schemas"
)

// pruneChunk bounds one DELETE, so that it holds no lock for long.
const pruneChunk = 5000

// now(), not clock_timestamp(): an index cannot be searched for a value that
// changes while it is searched.
const (
	// Both rows of a letter are locked first, or neither: it waits for none of them, and so is
	// part of no deadlock with who locks the letter before its state.
	pruneLetters = `
with c as (
  select s.letter from perdure.letter_states s join perdure.letters l on l.letter = s.letter
  where s.queue = $1 and s.state in ('resolved', 'discarded') and s.changed_at < now() - $2::interval
  order by s.changed_at limit $3 for update skip locked),
s as (
  delete from perdure.letter_states where letter in (select letter from c)
  returning letter)
delete from perdure.letters l using s where l.letter = s.letter`
	pruneEvents = `
delete from perdure.events e using (
  select topic, partition, "offset" from perdure.events where at < now() - $1::interval limit $2) o
where e.topic = o.topic and e.partition = o.partition and e."offset" = o."offset"`
	// A resolution is needed as long as a letter of its task can still be read
	// from Kafka, or stands in the index.
	pruneResolutions = `
delete from perdure.resolutions where task_id in (
  select task_id from perdure.resolutions r
  where at < now() - $1::interval
    and not exists (select from perdure.letters d where d.task_id = r.task_id)
  limit $2)`
)

// prune removes what is old until ctx ends, first at once.
func (x *Index) prune(ctx context.Context) {
	tick := time.NewTicker(x.cfg.PruneEvery)
	defer tick.Stop()
	for {
		if err := x.pruneOnce(ctx); err != nil && ctx.Err() == nil {
			x.log.Warn("dlq index: cannot prune; tries again later", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (x *Index) pruneOnce(ctx context.Context) error {
	return errors.Join(x.sweep(ctx), x.pruneAll(ctx))
}

func (x *Index) pruneAll(ctx context.Context) error {
	// A merge of groups whose process was killed goes on here.
	if err := settleStrays(ctx, x.deps.DB); err != nil {
		return err
	}
	longest := x.cfg.History
	for name, q := range x.deps.Catalog.Queues {
		keep := q.DLQRetention
		if keep <= 0 {
			keep = schemas.DefaultDLQRetention
		}
		longest = max(longest, keep)
		if err := x.pruneBy(ctx, pruneLetters, name, keep, pruneChunk); err != nil {
			return err
		}
	}
	if _, err := x.deps.DB.Exec(ctx, `select perdure.prune_groups()`); err != nil {
		return err
	}
	if err := x.pruneBy(ctx, pruneEvents, x.cfg.History, pruneChunk); err != nil {
		return err
	}
	// Kafka deletes whole segments, so records live on past their retention.
	return x.pruneBy(ctx, pruneResolutions, 2*longest, pruneChunk)
}

func (x *Index) pruneBy(ctx context.Context, sql string, args ...any) error {
	for {
		tag, err := x.deps.DB.Exec(ctx, sql, args...)
		if err != nil {
			return err
		}
		x.metrics.pruned.Add(float64(tag.RowsAffected()))
		if tag.RowsAffected() < pruneChunk {
			return nil
		}
	}
}

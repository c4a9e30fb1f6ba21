package worker

// Unreadable batches of a shared queue. The client gives such a batch back, and
// Kafka out again, until it was given out too often and is dropped: its dead
// letter is made before that, from the log.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/perdure/perdure/internal/kafka"
)

// mostLocked is the most offsets of a partition, from the group's start on, among
// which Kafka gives records out (group.share.max.partition.max.record.locks).
const mostLocked = 10_000

// burySharedUnreadable makes the dead letters of a partition's unreadable batches
// from the share group's start on. It may make them again, in each worker and at each
// fetch: a letter is known by where its batch lay.
func (w *Worker) burySharedUnreadable(ctx context.Context, in *intake, topicID [16]byte, partition int32, cause error) error {
	progress, err := kafka.ShareProgress(ctx, kadm.NewClient(w.producer), in.group, in.topic)
	if err != nil {
		return err
	}
	first, err := w.logStart(ctx, in.topic, partition)
	if err != nil {
		return err
	}
	from := &assignment{intake: in, partition: partition, topicID: topicID, position: max(first, progress[partition].Below)}
	end := from.position + mostLocked
	for {
		batch, err := w.findUnreadable(ctx, from, end)
		if err != nil || batch == nil {
			return err
		}
		if err := w.buryBatch(ctx, in, partition, batch, cause); err != nil {
			return err
		}
		from.position = batch.next
	}
}

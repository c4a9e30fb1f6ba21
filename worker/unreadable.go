package worker

// Batches that cannot be read: a wrong checksum, broken compression, nonsense
// inside. The client reports them at every fetch and never passes them.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/schemas"
)

// isUnreadable reports whether a fetch error is about the bytes of a batch: not
// an answer of the broker, not the network.
func isUnreadable(err error) bool {
	var ke *kerr.Error
	if errors.As(err, &ke) {
		return errors.Is(err, kerr.CorruptMessage)
	}
	if errors.Is(err, kgo.ErrMaxDecompress) {
		return true
	}
	// The client has no sentinel for these.
	text := err.Error()
	for _, sign := range []string{
		"unable to decompress", "calculated crc", "too short to allow for a crc", "unknown magic",
		"unknown batch magic", "invalid record batch", "not enough data", "does not match read length",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// rawBatch is a batch as the log holds it.
type rawBatch struct {
	first, next int64 // offsets: of its first record, and after its last
	bytes       []byte
}

// passUnreadable puts the batch at the partition's position onto the
// dead-letter topic, bytes and all, and continues after it.
func (w *Worker) passUnreadable(ctx context.Context, asg *assignment, cause error) error {
	in, partition := asg.intake, asg.partition
	if asg.position < 0 {
		first, err := w.logStart(ctx, in.topic, partition)
		if err != nil {
			return err
		}
		asg.position = first
	}
	batch, err := w.findUnreadable(ctx, asg, math.MaxInt64)
	if err != nil {
		return fmt.Errorf("read the batch at %s/%d offset %d as it is: %w", in.topic, partition, asg.position, err)
	}
	if batch == nil {
		return nil // passed already: the error was of an earlier fetch
	}
	if err := w.buryBatch(ctx, in, partition, batch, cause); err != nil {
		return err
	}
	asg.position = batch.next
	// What was polled before is with the loop: the skip takes its turn behind it.
	w.p.arrived.put(arrival{asg: asg, skipTo: batch.next})
	in.cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{in.topic: {partition: {Epoch: -1, Offset: batch.next}}})
	return nil
}

// buryBatch makes the dead letter of a batch, and returns when Kafka has it.
func (w *Worker) buryBatch(ctx context.Context, in *intake, partition int32, batch *rawBatch, cause error) error {
	rec := dlq.Encode(&dlq.Letter{
		Value:      batch.bytes,
		Origin:     dlq.Origin{Topic: in.topic, Partition: partition, Offset: batch.first, Group: in.group},
		Reason:     schemas.ReasonUndecodable,
		ErrorClass: "unreadable batch",
		Message: fmt.Sprintf("the batch of offsets %d to %d cannot be read: %v; the value of this letter is the raw batch",
			batch.first, batch.next-1, cause),
		Release: w.cfg.Release, Catalog: w.deps.Catalog.Hash,
	})
	rec.Topic = w.deps.Names.DLQ(in.queue)
	if err := w.producer.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("write the letter of the batch at %s/%d offset %d: %w", in.topic, partition, batch.first, err)
	}
	w.met.letters.WithLabelValues(in.queue, string(schemas.ReasonUndecodable)).Inc()
	w.log.Error("an unreadable batch became a dead letter", "queue", in.queue, "partition", partition,
		"first", batch.first, "next", batch.next, "err", cause)
	return nil
}

// findUnreadable returns the first batch from the assignment's position on, and
// below end, that the client cannot read; nil if it reads everything there.
func (w *Worker) findUnreadable(ctx context.Context, asg *assignment, end int64) (*rawBatch, error) {
	for at := asg.position; at < end; {
		raw, err := w.fetchRaw(ctx, asg, at)
		if err != nil {
			return nil, err
		}
		began := at
		for len(raw) >= batchHeader {
			b, rest := cutBatch(raw)
			if b == nil {
				break // the response ends inside it
			}
			raw = rest
			if b.next <= at {
				continue
			}
			if !readable(asg, b, at) {
				return b, nil
			}
			at = b.next
		}
		if at == began {
			return nil, nil
		}
	}
	return nil, nil
}

// The header of a record batch, magic 2 (KIP-98): base offset 8, length 4,
// leader epoch 4, magic 1, checksum 4, attributes 2, last offset delta 4, ….
const batchHeader = 61

func cutBatch(raw []byte) (*rawBatch, []byte) {
	first := int64(binary.BigEndian.Uint64(raw))
	length := int64(int32(binary.BigEndian.Uint32(raw[8:]))) + 12
	if length < batchHeader || length > int64(len(raw)) {
		return nil, nil
	}
	b := &rawBatch{first: first, next: first + 1, bytes: raw[:length:length]}
	if delta := int32(binary.BigEndian.Uint32(raw[23:])); raw[16] == 2 && delta > 0 {
		b.next += int64(delta)
	}
	return b, raw[length:]
}

// readable tries the client's own decoder on one batch.
func readable(asg *assignment, b *rawBatch, at int64) bool {
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: at, Topic: asg.intake.topic, Partition: asg.partition, KeepControlRecords: true,
	}, &kmsg.FetchResponseTopicPartition{Partition: asg.partition, RecordBatches: b.bytes}, kgo.DefaultDecompressor(), nil)
	return fp.Err == nil && next >= b.next
}

// fetchRaw asks the leader for the bytes at an offset.
func (w *Worker) fetchRaw(ctx context.Context, asg *assignment, offset int64) ([]byte, error) {
	cl := asg.intake.cl
	leader, epoch, err := cl.PartitionLeader(asg.intake.topic, asg.partition)
	if err != nil {
		return nil, err
	}
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.CurrentLeaderEpoch = asg.partition, offset, epoch
	part.PartitionMaxBytes = 4 << 20
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = asg.intake.topic, asg.topicID
	topic.Partitions = append(topic.Partitions, part)
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 100, 1, 4<<20, -1
	req.Topics = append(req.Topics, topic)
	answer, err := cl.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*kmsg.FetchResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errors.New("the broker answered for other partitions than it was asked for")
	}
	p := resp.Topics[0].Partitions[0]
	if err := errors.Join(kerr.ErrorForCode(resp.ErrorCode), kerr.ErrorForCode(p.ErrorCode)); err != nil {
		return nil, err
	}
	return p.RecordBatches, nil
}

// logStart is the first offset that a partition still has.
func (w *Worker) logStart(ctx context.Context, topic string, partition int32) (int64, error) {
	offsets, err := kadm.NewClient(w.producer).ListStartOffsets(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("ask where %s/%d begins: %w", topic, partition, err)
	}
	o, ok := offsets.Lookup(topic, partition)
	if !ok {
		return 0, fmt.Errorf("ask where %s/%d begins: no answer", topic, partition)
	}
	return o.Offset, o.Err
}

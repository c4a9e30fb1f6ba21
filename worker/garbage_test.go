package worker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker"
)

const onePartition = `
version: 1
queues:
  jobs: {partitions: 1, replication: 1}
kinds:
  job.run:
    queue: jobs
    timeout: 2s
    retry: {max_attempts: 3, initial_delay: 20ms, max_delay: 50ms}
`

func ledgered(l *ledger) func(*worker.Worker) {
	return func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			return l.applied(task.ID, task.Run)
		})
	}
}

func TestGarbageOfEveryKindBecomesALetterAndThePartitionGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onePartition)
	topic := w.names.Tasks("jobs")
	good := w.task("job.run", job{N: 1})
	headers := schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &good)
	without := func(name string) (out []kgo.RecordHeader) {
		for _, h := range headers {
			if h.Key != name {
				out = append(out, h)
			}
		}
		return out
	}
	with := func(name, value string) []kgo.RecordHeader {
		return append(without(name), kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	garbage := map[string]*kgo.Record{
		"empty value":      {Value: []byte{}, Key: []byte("k"), Headers: headers},
		"no headers":       {Value: []byte("hello"), Key: []byte("k")},
		"nothing at all":   {},
		"tombstone":        {Key: []byte("k"), Headers: headers},
		"no id":            {Value: []byte("{}"), Headers: without("ce_id")},
		"wrong id":         {Value: []byte("{}"), Headers: with("ce_id", "../../etc")},
		"wrong attempt":    {Value: []byte("{}"), Headers: with("perdure_attempt", "-1")},
		"huge attempt":     {Value: []byte("{}"), Headers: with("perdure_attempt", "99999999999999999999")},
		"run of no epoch":  {Value: []byte("{}"), Headers: with("perdure_run", "9223372036854775807")},
		"wrong time":       {Value: []byte("{}"), Headers: with("ce_time", "yesterday")},
		"not UTF-8":        {Value: []byte("{}"), Headers: with("ce_type", "\xff\xfe\x00")},
		"binary":           {Value: bytes.Repeat([]byte{0, 255, 10}, 1000), Key: []byte{0, 0, 1}},
		"many headers":     {Value: []byte("{}"), Headers: make([]kgo.RecordHeader, 500)},
		"repeated headers": {Value: []byte("{}"), Headers: append(without(""), headers...)},
	}
	for _, r := range garbage {
		r.Topic = topic
		w.sendRaw(r)
	}
	w.send(good)
	l := newLedger()
	w.start("a", nil, ledgered(l))
	l.doneWithin(t, 1)
	w.committedAll("jobs")
	letters := w.lettersWithin("jobs", len(garbage))
	if len(letters) != len(garbage) {
		t.Fatalf("%d letters for %d garbage records", len(letters), len(garbage))
	}
	byOffset := map[int64]*dlq.Letter{}
	for _, l := range letters {
		byOffset[l.Origin.Offset] = l
	}
	for name, r := range garbage {
		l := byOffset[r.Offset]
		switch {
		case l == nil:
			t.Errorf("%s: no letter", name)
		case l.Reason != schemas.ReasonUndecodable || l.Run != 0 || l.Origin.Topic != topic:
			t.Errorf("%s: letter %+v", name, l)
		case !bytes.Equal(l.Key, r.Key) || !bytes.Equal(l.Value, r.Value) || (l.Value == nil) != (r.Value == nil) || len(l.Headers) != len(r.Headers):
			t.Errorf("%s: the letter does not hold the record as it was", name)
		}
	}
	if n := l.runsOf(good.ID); n != 1 {
		t.Errorf("the good task ran %d times", n)
	}
}

// rawRecordBatch makes a record batch, magic 2, with a right checksum over
// whatever bytes stand where its records should.
func rawRecordBatch(attributes int16, lastDelta, count int32, records []byte) []byte {
	var body []byte
	be16 := func(v int16) { body = binary.BigEndian.AppendUint16(body, uint16(v)) }
	be32 := func(v int32) { body = binary.BigEndian.AppendUint32(body, uint32(v)) }
	be64 := func(v int64) { body = binary.BigEndian.AppendUint64(body, uint64(v)) }
	now := time.Now().UnixMilli()
	be16(attributes)
	be32(lastDelta)
	be64(now)
	be64(now)
	be64(-1) // producer id
	be16(-1)
	be32(-1)
	be32(count)
	body = append(body, records...)
	b := binary.BigEndian.AppendUint64(nil, 0)                // base offset
	b = binary.BigEndian.AppendUint32(b, uint32(9+len(body))) // length from here on
	b = binary.BigEndian.AppendUint32(b, 0)                   // leader epoch
	b = append(b, 2)                                          // magic
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return append(b, body...)
}

// produceBytes puts raw bytes onto partition 0 of a topic.
func (w *world) produceBytes(topic string, batch []byte) error {
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = batch
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rt.Partitions = append(rt.Partitions, part)
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 5000
	meta := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &topic
	meta.Topics = append(meta.Topics, mt)
	m, err := meta.RequestWith(w.Context(), w.cl)
	if err != nil {
		return err
	}
	rt.TopicID = m.Topics[0].TopicID
	req.Topics = append(req.Topics, rt)
	answer, err := w.cl.Broker(int(m.Topics[0].Partitions[0].Leader)).Request(w.Context(), req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(answer.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

func TestAnUnreadableBatchBecomesALetterAndThePartitionGoesOn(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string][]byte{
		"broken zstd":      rawRecordBatch(4, 2, 3, []byte("this is not zstd at all, not even close")),
		"broken gzip":      rawRecordBatch(1, 0, 1, []byte("nor is this gzip")),
		"no records in it": rawRecordBatch(0, 2, 3, nil),
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/first=%v", name, first), func(t *testing.T) {
				// Kafka 4.3 decompresses what is produced and refuses such a batch: only
				// a disk or a lesser broker can bring one.
				w := newWorld(t, onePartition, withFakeKafka())
				topic := w.names.Tasks("jobs")
				want := 3
				if !first {
					w.sendJobs(2)
					want += 2
				}
				if err := w.produceBytes(topic, bad); err != nil {
					t.Fatal(err)
				}
				w.sendJobs(3)
				l := newLedger()
				w.start("a", nil, ledgered(l))
				l.doneWithin(t, want)
				w.committedAll("jobs")
				letters := w.lettersWithin("jobs", 1)
				if len(letters) != 1 {
					t.Fatalf("%d letters, want one for the batch", len(letters))
				}
				got := letters[0]
				if got.Reason != schemas.ReasonUndecodable || got.Origin.Offset != int64(want-3) || got.Origin.Partition != 0 || !strings.Contains(got.Message, "offsets") {
					t.Errorf("letter %+v", got)
				}
				if !bytes.HasSuffix(got.Value, bad[61:]) {
					t.Error("the letter does not hold the raw bytes")
				}
			})
		}
	}
}

// recordBytes are tasks as the records of a batch, uncompressed, at offset
// deltas from 0.
func recordBytes(tasks []schemas.Task) (b []byte) {
	for i := range tasks {
		t := &tasks[i]
		r := kmsg.Record{OffsetDelta: int32(i), Key: []byte(t.RecordKey()), Value: t.Payload}
		for _, h := range schemas.AppendRecordHeaders[kgo.RecordHeader](nil, t) {
			r.Headers = append(r.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		r.Length = int32(len(r.AppendTo(nil)) - 1) // of what comes after it: a zero has one byte
		b = r.AppendTo(b)
	}
	return b
}

// A batch that says five and holds three: the three can be read, so they run
// like others; the two that it lacks have no bytes that a letter could hold, and
// the partition goes on behind them.
func TestABatchThatSaysMoreThanItHoldsRunsWhatItHolds(t *testing.T) {
	t.Parallel()
	// Kafka counts what is produced, and kfake holds the count against the last
	// offset, so that one lies as well.
	w := newWorld(t, onePartition, withFakeKafka())
	var held []schemas.Task
	for n := range 3 {
		held = append(held, w.task("job.run", job{N: n}))
	}
	if err := w.produceBytes(w.names.Tasks("jobs"), rawRecordBatch(0, 4, 5, recordBytes(held))); err != nil {
		t.Fatal(err)
	}
	after := w.sendJobs(2)
	l := newLedger()
	w.start("a", nil, ledgered(l))
	l.doneWithin(t, 5)
	w.committedAll("jobs")
	for _, task := range held {
		after = append(after, task.ID)
	}
	for _, id := range after {
		if n := l.runsOf(id); n != 1 {
			t.Errorf("task %s ran %d times, want once", id, n)
		}
	}
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d letters, want none", len(letters))
	}
}

func TestAnUnknownKindWaitsForAWorkerThatKnowsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalogText+"  job.new: {queue: jobs}\n")
	l := newLedger()
	full := w.cat
	old := *w.cat
	old.Kinds = map[string]*schemas.Kind{"job.run": full.Kinds["job.run"]}
	w.cat = &old
	a := w.start("a", nil, ledgered(l))
	w.cat = full
	task := w.task("job.new", job{N: 1})
	w.send(task)
	var tour *kgo.Record
	testkit.Eventually(t, wait, func() (bool, string) {
		recs := w.read(w.names.Retry("5s"))
		if len(recs) > 0 {
			tour = recs[0]
		}
		return tour != nil, "nothing on retry.5s"
	})
	got, err := schemas.DecodeRecord(tour.Key, tour.Value, tour.Headers)
	if err != nil || got.Attempt != 1 || got.Queue != "jobs" {
		t.Fatalf("%+v, %v: waiting uses no attempt", got, err)
	}
	w.committedAll("jobs")

	// An hour later nobody knows it still.
	tired := w.task("job.new", job{N: 2})
	hour := time.Now().Add(-time.Hour - time.Second).UnixMilli()
	w.sendRaw(&kgo.Record{
		Topic: w.names.Tasks("jobs"), Key: []byte(tired.ID), Value: tired.Payload,
		Headers: append(schemas.AppendRecordHeaders[kgo.RecordHeader](nil, &tired),
			kgo.RecordHeader{Key: "perdure_unknown_since", Value: fmt.Append(nil, hour)}),
	})
	letter := w.lettersWithin("jobs", 1)[0]
	if letter.TaskID != tired.ID || letter.Reason != schemas.ReasonUnknownKind {
		t.Errorf("letter %+v", letter)
	}
	w.committedAll("jobs")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}

	// A worker that knows the kind runs it.
	w.start("b", nil, func(wk *worker.Worker) {
		ledgered(l)(wk)
		worker.Handle(wk, "job.new", func(_ context.Context, task *worker.Task[job]) error {
			l.began(task.ID, task.Run)
			return l.applied(task.ID, task.Run)
		})
	})
	w.send(got)
	l.doneWithin(t, 1)
	if l.runsOf(task.ID) != 1 || l.runsOf(tired.ID) != 0 {
		t.Errorf("ran %d and %d times, want 1 and 0", l.runsOf(task.ID), l.runsOf(tired.ID))
	}
}

// In a key's order it waits where it is, and what comes behind it with it: a tour
// through the delay tiers would let the others overtake.
func TestAnUnknownKindHoldsItsKeyUntilAWorkerKnowsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, stuckCatalog+"  job.new: {queue: jobs, order: key}\n")
	full := w.cat
	old := *w.cat
	old.Kinds = map[string]*schemas.Kind{"job.run": full.Kinds["job.run"], "job.keyed": full.Kinds["job.keyed"]}
	w.cat = &old
	var mu sync.Mutex
	ran := map[string][]string{} // by key
	handle := func(_ context.Context, task *worker.Task[job]) error {
		mu.Lock()
		defer mu.Unlock()
		ran[task.Key] = append(ran[task.Key], task.ID)
		return nil
	}
	within := func(key string, want ...string) {
		t.Helper()
		testkit.Eventually(t, wait, func() (bool, string) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Equal(ran[key], want), fmt.Sprintf("of key %q ran %v, want %v", key, ran[key], want)
		})
	}
	known := func(wk *worker.Worker) {
		worker.Handle(wk, "job.run", handle)
		worker.Handle(wk, "job.keyed", handle)
	}
	a := w.start("a", nil, known)
	w.cat = full
	first, unknown, behind, other := w.task("job.keyed", job{}), w.task("job.new", job{}), w.task("job.keyed", job{}), w.task("job.keyed", job{})
	for _, task := range []*schemas.Task{&first, &unknown, &behind, &other} {
		task.Key, task.Ordered = "k", true
	}
	other.Key = "another"
	w.send(first, unknown, behind, other)
	within("another", other.ID)
	within("", w.sendJobs(1)...) // by when it ran, what is behind could have
	within("k", first.ID)
	for _, tier := range kafka.Tiers {
		if recs := w.read(w.names.Retry(tier.Name)); len(recs) > 0 {
			t.Errorf("%d records went on tour", len(recs))
		}
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	within("k", first.ID)
	w.start("b", nil, func(wk *worker.Worker) {
		known(wk)
		worker.Handle(wk, "job.new", handle)
	})
	within("k", first.ID, unknown.ID, behind.ID)
	w.committedAll("jobs")
	if letters := w.letters("jobs"); len(letters) != 0 {
		t.Errorf("%d letters", len(letters))
	}
}

package dlq

// Letter → record of dlq.<queue>. The layout is a contract: see the reference.

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// Kafka's own names for where a dead letter came from (KIP-1191), all UTF-8 text.
const (
	headerTopic      = "__dlq.errors.topic"
	headerPartition  = "__dlq.errors.partition"
	headerOffset     = "__dlq.errors.offset"
	headerGroup      = "__dlq.errors.group"
	headerDeliveries = "__dlq.errors.delivery.count"
	headerMessage    = "__dlq.errors.message"

	// headerCut marks a letter whose original did not fit, with the sizes in
	// bytes that it had: "key=… headers=… value=…".
	headerCut = "perdure_cut"
)

// Values of perdure_record.
const (
	recordLetter   = "letter"
	recordResolved = "resolved"
	recordAnswer   = "answer"
)

// Values of perdure_outcome, and of a settled letter's resolved_by.
const (
	outcomeCompleted = "completed"
	outcomeCancelled = "cancelled"
)

// Encode makes the record of a letter; the caller sets its Topic. Key, value
// and headers are the original's, followed by a block of our own that begins
// with the last perdure_record header: an original that was itself a dead
// letter (someone copied one onto tasks.*) keeps its older block untouched.
func Encode(l *Letter) *kgo.Record {
	fp := l.Fingerprint
	if fp == "" {
		fp = Fingerprint(l.Kind, l.ErrorClass, l.Message, lastFrame(l.Attempts))
	}
	n := l.Deliveries
	if n == 0 {
		n = max(1, len(l.Attempts))
	}
	own := []kgo.RecordHeader{
		text(schemas.HeaderRecord, recordLetter),
		text(headerTopic, l.Origin.Topic),
		text(headerPartition, strconv.Itoa(int(l.Origin.Partition))),
		text(headerOffset, strconv.FormatInt(l.Origin.Offset, 10)),
		text(headerGroup, l.Origin.Group),
		text(headerDeliveries, strconv.Itoa(n)),
		text(headerMessage, ClipMessage(l.Message)),
		text(schemas.HeaderRun, strconv.FormatInt(l.Run, 10)),
		text(schemas.HeaderReason, string(l.Reason)),
		text(schemas.HeaderErrorClass, Clip(l.ErrorClass, MaxErrorClass)),
		text(schemas.HeaderFingerprint, fp),
		text(schemas.HeaderRelease, Clip(l.Release, MaxErrorClass)),
		text(schemas.HeaderCatalog, Clip(l.Catalog, MaxErrorClass)),
		{Key: schemas.HeaderAttempts, Value: EncodeAttempts(l.Attempts, MaxAttempts)},
	}
	if l.Block {
		own = append(own, text(schemas.HeaderOnDead, schemas.OnDeadBlock))
	}
	if l.BlockedBy != "" {
		own = append(own, text(schemas.HeaderBlockedBy, l.BlockedBy))
	}
	r := &kgo.Record{Key: l.Key, Value: l.Value, Timestamp: l.DiedAt}
	orig := l.Headers
	if size(l.Key, l.Value, orig)+size(nil, nil, own) > MaxRecord {
		own = append(own, text(headerCut, "key="+strconv.Itoa(len(l.Key))+
			" headers="+strconv.Itoa(size(nil, nil, orig))+" value="+strconv.Itoa(len(l.Value))))
		r.Key, r.Value, orig = shrink(l.Key, l.Value, orig, MaxRecord-size(nil, nil, own))
		l.Cut = true
	}
	r.Headers = make([]kgo.RecordHeader, 0, len(orig)+len(own))
	r.Headers = append(append(r.Headers, orig...), own...)
	return r
}

// Resolved makes the record that says: the task died at some epoch, and has
// been completed at this one. Its key must be the task's record key, so that it
// lands on the partition of the letters, after them. The caller sets Topic.
func Resolved(recordKey, taskID string, epoch int, at time.Time) *kgo.Record {
	return &kgo.Record{
		Key: []byte(recordKey), Value: []byte{}, Timestamp: at,
		Headers: []kgo.RecordHeader{
			text(schemas.HeaderID, taskID),
			text(schemas.HeaderEpoch, strconv.Itoa(epoch)),
			text(schemas.HeaderRecord, recordResolved),
		},
	}
}

// Cancelled is Resolved for a replayed task that somebody cancelled.
func Cancelled(recordKey, taskID string, epoch int, at time.Time) *kgo.Record {
	r := Resolved(recordKey, taskID, epoch, at)
	r.Headers = append(r.Headers, text(schemas.HeaderOutcome, outcomeCancelled))
	return r
}

func text(name, value string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: name, Value: []byte(value)}
}

// size is the room that parts take in a record, varints at their widest.
func size(key, value []byte, hs []kgo.RecordHeader) int {
	n := len(key) + len(value) + 16
	for _, h := range hs {
		n += len(h.Key) + len(h.Value) + 8
	}
	return n
}

// shrink cuts an original to room bytes: the value gives way first, then the
// headers that do not fit (short ones, ours among them, stay), then the key.
func shrink(key, value []byte, hs []kgo.RecordHeader, room int) ([]byte, []byte, []kgo.RecordHeader) {
	const share = 256 << 10
	if len(key) > share {
		key = key[:share]
	}
	room -= size(key, nil, nil)
	if n := size(nil, nil, hs); n > room/2 {
		var kept []kgo.RecordHeader
		left := room / 2
		for _, h := range hs {
			if n := size(nil, nil, []kgo.RecordHeader{h}); n <= min(left, share) {
				kept, left = append(kept, h), left-n
			}
		}
		hs = kept
	}
	room -= size(nil, nil, hs)
	if len(value) > room {
		value = value[:room]
	}
	return key, value, hs
}

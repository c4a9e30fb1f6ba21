package dlq

// Record of dlq.<queue> → letter or resolution. Everything here comes from
// outside: an error, never a panic.

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// ErrNotALetter is wrapped by every error of Decode.
var ErrNotALetter = errors.New("not a dead-letter record")

// Resolution says that a task that had died, or was replayed, is over.
type Resolution struct {
	TaskID    string
	Epoch     int  // at which it ended; letters at it and below are resolved
	Cancelled bool // it did not complete
	At        time.Time
}

// Decode reads a record that Encode or Resolved made: exactly one of the two
// results is non-nil unless err is. The results alias the record's bytes.
func Decode(r *kgo.Record) (*Letter, *Resolution, error) {
	i := ownBlock(r)
	if i < 0 {
		return nil, nil, fmt.Errorf("%w: no %s header", ErrNotALetter, schemas.HeaderRecord)
	}
	switch what := string(r.Headers[i].Value); what {
	case recordResolved:
		res := &Resolution{At: r.Timestamp}
		if res.TaskID, res.Epoch = identity(r.Headers); res.TaskID == "" {
			return nil, nil, fmt.Errorf("%w: resolved without a readable task id and epoch", ErrNotALetter)
		}
		switch outcome := header(r.Headers, schemas.HeaderOutcome); outcome {
		case "", outcomeCompleted:
		case outcomeCancelled:
			res.Cancelled = true
		default:
			return nil, nil, fmt.Errorf("%w: %s is %q", ErrNotALetter, schemas.HeaderOutcome, Clip(outcome, 32))
		}
		return nil, res, nil
	case recordLetter:
		l, err := decodeLetter(r, r.Headers[:i:i], r.Headers[i:])
		return l, nil, err
	default:
		return nil, nil, fmt.Errorf("%w: %s is %q", ErrNotALetter, schemas.HeaderRecord, Clip(what, 32))
	}
}

func isResolution(r *kgo.Record) bool {
	i := ownBlock(r)
	return i >= 0 && string(r.Headers[i].Value) == recordResolved
}

func decodeLetter(r *kgo.Record, orig, own []kgo.RecordHeader) (*Letter, error) {
	if len(orig) == 0 {
		orig = nil
	}
	l := &Letter{
		Key: r.Key, Value: r.Value, Headers: orig,
		Origin:      Origin{Topic: header(own, headerTopic), Group: header(own, headerGroup)},
		Reason:      schemas.Reason(header(own, schemas.HeaderReason)),
		ErrorClass:  Clip(header(own, schemas.HeaderErrorClass), MaxErrorClass),
		Message:     ClipMessage(header(own, headerMessage)),
		Fingerprint: Clip(header(own, schemas.HeaderFingerprint), MaxErrorClass),
		Release:     Clip(header(own, schemas.HeaderRelease), MaxErrorClass),
		Catalog:     Clip(header(own, schemas.HeaderCatalog), MaxErrorClass),
		DiedAt:      r.Timestamp,
		Block:       header(own, schemas.HeaderOnDead) == schemas.OnDeadBlock,
		BlockedBy:   Clip(header(own, schemas.HeaderBlockedBy), MaxErrorClass),
		Cut:         header(own, headerCut) != "",
	}
	if !l.Reason.Known() {
		return nil, fmt.Errorf("%w: unknown reason %q", ErrNotALetter, Clip(string(l.Reason), 32))
	}
	if t := l.Origin.Topic; t == "" || len(t) > maxTopic || t != Clip(t, maxTopic) {
		return nil, fmt.Errorf("%w: %s is not a topic", ErrNotALetter, headerTopic)
	}
	var part, n int64
	for _, f := range []struct {
		name string
		bits int
		to   *int64
	}{
		{headerPartition, 32, &part},
		{headerOffset, 64, &l.Origin.Offset},
		{headerDeliveries, 32, &n},
		{schemas.HeaderRun, 64, &l.Run},
	} {
		v, err := strconv.ParseInt(header(own, f.name), 10, f.bits)
		if err != nil || v < -1 {
			return nil, fmt.Errorf("%w: %s is not a number", ErrNotALetter, f.name)
		}
		*f.to = v
	}
	l.Origin.Partition, l.Deliveries = int32(part), int(n)
	var err error
	if l.Attempts, err = DecodeAttempts([]byte(header(own, schemas.HeaderAttempts))); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotALetter, err)
	}
	l.identify()
	if l.Fingerprint == "" {
		l.Fingerprint = Fingerprint(l.Kind, l.ErrorClass, l.Message, lastFrame(l.Attempts))
	}
	return l, nil
}

// Stray makes a visible letter of a record on a dead-letter topic that Decode
// refused with why. It is known by its own coordinate, never by an id that it
// may carry: nothing proves that this task is dead.
func Stray(r *kgo.Record, why error) *Letter {
	l := &Letter{
		Key: r.Key, Value: r.Value, Headers: r.Headers,
		Origin:     Origin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset},
		Reason:     schemas.ReasonUndecodable,
		ErrorClass: "dlq.stray", Message: ClipMessage(why.Error()),
		Deliveries: 1, DiedAt: r.Timestamp,
	}
	l.Fingerprint = Fingerprint("", l.ErrorClass, l.Message, "")
	return l
}

// maxTopic is Kafka's own bound of a topic's name, in bytes.
const maxTopic = 249

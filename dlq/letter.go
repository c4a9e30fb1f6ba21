package dlq

// The dead letter: one task, or one unreadable record, with its failure.

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// Bounds of what a letter carries beside the original, in bytes. With an
// original of at most 1.5 MiB (max.message.bytes of tasks.*) the record stays
// below the 2 MiB of dlq.*; a larger original, which only the relay can meet
// (a row written around perdure.enqueue), is cut and marked: see Letter.Cut.
const (
	MaxRecord     = 2<<20 - 64<<10
	MaxAttempts   = 256 << 10
	MaxMessage    = 4 << 10
	MaxErrorClass = 256
	maxStack      = 16 << 10
)

// Letter is a dead letter. Make one with From, then say why it died.
type Letter struct {
	// The original record, unchanged. A nil Value is a tombstone; an empty one is not.
	Key     []byte
	Value   []byte
	Headers []kgo.RecordHeader
	Origin  Origin

	// Who died, read from Headers by From and Decode; Encode does not look at
	// them. TaskID is "" where no id could be read. Of a letter with reason
	// undecodable it is only what the record claims: see ID.
	TaskID string
	Epoch  int
	Kind   string // ce_type; "" = none
	TaskAt time.Time

	Reason      schemas.Reason
	ErrorClass  string // what the error is, without values: a Go type, problem+json's type, "HTTP 422"
	Message     string // the error's text; cut at MaxMessage
	Fingerprint string // "" = Encode computes it from Kind, ErrorClass, Message and the last stack's first line
	Release     string // version of the user's code
	Catalog     string // hash of the catalog in force
	Run         int64  // the last run granted; 0 = died before any grant
	Deliveries  int    // 0 = as many as Attempts, at least 1
	Attempts    []Attempt
	DiedAt      time.Time // becomes the record's timestamp; zero = the broker's or client's now
	Block       bool      // on_dead: block: no later task of its key runs until it is settled
	BlockedBy   string    // the letter that it waits for; "" = none
	Cut         bool      // set by Encode and Decode: the original was too large to be kept whole
}

// Origin is where the dead record lay. Where there was none, because the relay
// refused an outbox row, Partition is -1 and Offset is the row's id.
type Origin struct {
	Topic     string
	Partition int32
	Offset    int64
	Group     string // consumer group that gave up; "" = the relay
}

// From begins a letter for a record that was consumed (or, by the relay, would
// have been produced). It keeps references to the record's bytes.
func From(r *kgo.Record, group string) *Letter {
	l := &Letter{
		Key: r.Key, Value: r.Value, Headers: r.Headers,
		Origin: Origin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Group: group},
	}
	l.identify()
	return l
}

// identify reads who died from the original headers. An id counts only if it
// and its epoch can both be read.
func (l *Letter) identify() {
	l.Kind = header(l.Headers, schemas.HeaderType)
	l.TaskAt, _ = time.Parse(time.RFC3339Nano, header(l.Headers, schemas.HeaderTime))
	l.TaskID, l.Epoch = identity(l.Headers)
}

// identity returns the task id and epoch of headers, or "" and 0.
func identity(hs []kgo.RecordHeader) (id string, epoch int) {
	id = header(hs, schemas.HeaderID)
	if _, err := schemas.ParseID(id); err != nil {
		return "", 0
	}
	if s := header(hs, schemas.HeaderEpoch); s != "" {
		n, err := strconv.ParseUint(s, 10, 15) // run numbers leave 15 bits to the epoch
		if err != nil {
			return "", 0
		}
		epoch = int(n)
	}
	return id, epoch
}

// ID is the key of the letter in the index: the same death gives the same ID,
// however often its record was produced. A record that could not be decoded is
// known by where it lay, also if an id can be read from it: anyone may write
// one, and the letter of a real task must not find its place taken.
func (l *Letter) ID() string {
	if l.TaskID != "" && l.Reason != schemas.ReasonUndecodable {
		return LetterID(l.TaskID, l.Epoch)
	}
	o := l.Origin
	return "kafka:" + o.Topic + ":" + strconv.Itoa(int(o.Partition)) + ":" + strconv.FormatInt(o.Offset, 10)
}

// LetterID is the ID of the letter that a task leaves when it dies at epoch.
func LetterID(taskID string, epoch int) string { return taskID + "@" + strconv.Itoa(epoch) }

// header returns the last value of a header, as Kafka's own clients read a
// repeated one; "" if there is none.
func header(hs []kgo.RecordHeader, name string) string {
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == name {
			return string(hs[i].Value)
		}
	}
	return ""
}

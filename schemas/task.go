package schemas

// The envelope: what one task is, whatever carries it.

import (
	"strconv"
	"time"
)

// Limits of what is accepted.
const (
	MaxPayload     = 1 << 20  // bytes of payload
	MaxHeaders     = 32       // user headers
	MaxHeaderBytes = 16 << 10 // all user header names and values together
	MaxKey         = 512      // bytes of key, idempotency key and unique key
	MaxKind        = 128      // bytes of a kind's name
)

// Task is one unit of work with what its present delivery says about it.
//
// Payload and the strings of a decoded Task may alias the Kafka record they
// came from: copy what is kept longer than the record.
type Task struct {
	ID          string            // <source>-<generation>-<seq>
	Kind        string            // ce_type
	Queue       string            // the topic without its prefix
	Key         string            // "" = no key; partitions and orders by ID then
	Payload     []byte            // opaque bytes
	ContentType string            // "" is application/json
	Time        time.Time         // accepted at, producer database's clock
	Deadline    time.Time         // zero = none
	DataSchema  string            // ce_dataschema, "" = none
	TraceParent string            // the producer's, never changed; "" = none
	Headers     map[string]string // the user's own; nil = none

	Attempt int       // from 1; the attempt this record is for
	Epoch   int       // from 0; grows by one with each replay
	Run     int64     // the last run granted before this record was made; 0 = none
	Due     time.Time // not before; zero = now
	Ordered bool      // perdure_order: key
	Unique  bool      // perdure_unique: its end gives a unique key back
	Repair  int       // perdure_repair: how often a replay repaired the payload; 0 = it is the producer's
	Line    string    // perdure_line, as ParseLine reads it; "" = a task like any other
	Place   int64     // perdure_place: its first offset plus one, if it waited or died; 0 = this record is its first
}

// IdempotencyKey is what a downstream knows the task's effect by: its id, and
// after its n-th repair <id>-r<n>, because another payload is another request.
func (t *Task) IdempotencyKey() string {
	if t.Repair == 0 {
		return t.ID
	}
	return t.ID + "-r" + strconv.Itoa(t.Repair)
}

// RecordKey is the key of the task's Kafka record: every record of a task, and
// every task of a key, lands on one partition.
func (t *Task) RecordKey() string {
	if t.Key != "" {
		return t.Key
	}
	return t.ID
}

// Expired reports whether the deadline has passed at now.
func (t *Task) Expired(now time.Time) bool {
	return !t.Deadline.IsZero() && !now.Before(t.Deadline)
}

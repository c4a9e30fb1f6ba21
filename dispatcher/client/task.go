package client

// What a caller hands in and gets back.

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Task is one unit of work to be accepted. Kind and Payload are required.
type Task struct {
	Kind string // as in the catalog

	// Payload is marshalled to JSON, except Raw and json.RawMessage, which are
	// sent as they are.
	Payload     any
	ContentType string // "" is application/json; anything else needs Raw

	Queue    string            // "" is the kind's; any other is refused
	Key      string            // orders and partitions; "" is none
	RunAt    time.Time         // not before; zero is now
	Deadline time.Time         // zero is the kind's expires_after, if it has one
	Headers  map[string]string // the user's own; nil is none

	// Extensions are CloudEvents attributes of the user's own, as "subject",
	// without prefix: ce_subject on the record and among what a handler has as
	// Headers. nil is none.
	Extensions map[string]string

	// IdempotencyKey makes the same request twice one task, for 168 h within
	// the scope of producer, kind and queue. "" is none.
	IdempotencyKey string
	// Producer is the scope of both keys; "" is the database's
	// session_user. It is for gateways that accept tasks for others.
	Producer string
	// UniqueKey makes tasks of one meaning one task, for as long as the kind's
	// `unique` declares (a period, or until the task is completed), within the scope of producer, kind and queue;
	// payloads are not compared. "" is none.
	UniqueKey string
}

// Raw is a payload that is sent byte for byte.
type Raw []byte

// Ref is an accepted task.
type Ref struct {
	ID       string        // <source>-<generation>-<seq>, on every wire
	Seq      int64         // what SQL returns
	State    schemas.State // queued or scheduled, as it was first accepted
	Replayed bool          // the idempotency key was known: this is the first answer again
	// Duplicate: the unique key is held, by the task that this Ref names; nothing
	// was enqueued.
	Duplicate bool
}

// Outcome is what became of one task of EnqueueEach: Ref, or why not.
type Outcome struct {
	Ref Ref
	Err error // nil: accepted. *InvalidError, ErrKeyReuse, …
}

// submission turns the task into what schemas checks.
func (t *Task) submission() (schemas.Submission, error) {
	s := schemas.Submission{
		Kind: t.Kind, ContentType: t.ContentType, Queue: t.Queue, Key: t.Key,
		IdempotencyKey: t.IdempotencyKey, UniqueKey: t.UniqueKey,
		RunAt: t.RunAt, Deadline: t.Deadline, Headers: t.Headers, Extensions: t.Extensions,
	}
	switch p := t.Payload.(type) {
	case nil:
	case Raw:
		s.Payload = p
	case json.RawMessage:
		s.Payload = p
	case []byte:
		return s, &InvalidError{Errors: []schemas.FieldError{{Pointer: "#/payload", Detail: "is a []byte: say client.Raw to send bytes as they are"}}}
	default:
		if !schemas.IsJSON(t.ContentType) {
			return s, &InvalidError{Errors: []schemas.FieldError{{Pointer: "#/payload", Detail: "must be client.Raw for a content type that is not JSON"}}}
		}
		b, err := json.Marshal(p)
		if err != nil {
			return s, &InvalidError{Errors: []schemas.FieldError{{Pointer: "#/payload", Detail: fmt.Sprintf("%T cannot be written as JSON", p)}}}
		}
		s.Payload = b
	}
	return s, nil
}

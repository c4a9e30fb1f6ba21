package dlq

// Events: what happened to a task off the happy path, on events.<queue>.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// EventType names what happened.
type EventType string

// The types of events.
const (
	EventFailed    EventType = "failed" // an attempt failed and will be retried; Data {"next_at"}
	EventCrashed   EventType = "crashed"
	EventInDoubt   EventType = "in_doubt"
	EventWaiting   EventType = "waiting" // Data {"reason"}; of a breaker also {"kind", "next_at"}, its next probe
	EventDead      EventType = "dead"
	EventCancelled EventType = "cancelled"
	EventResult    EventType = "result" // Data: the result, at most 64 KiB
	EventResolved  EventType = "resolved"
	EventReleased  EventType = "released" // the task has ended: a unique key that it holds until then is free

	// EventBreakerClosed: its attempt closed the breaker of its kind at its worker; Data {"kind"}.
	EventBreakerClosed EventType = "breaker_closed"
)

// BreakerFresh is how long an open breaker is known to be open after it was told:
// its probes are at most a minute apart, and each that fails is told.
const BreakerFresh = 2 * time.Minute

// MaxEventData bounds Event.Data, in bytes.
const MaxEventData = 64 << 10

// Event is one thing that happened to a task. Events are for people: they are
// best effort, and no task's fate is decided from them; a replay or a policy may
// stop or wait because of an open breaker that they tell of. EventReleased alone is
// not best effort: it is waited for, no row is made of it, and it gives a unique key
// back.
type Event struct {
	TaskID     string          `json:"task_id"`
	Epoch      int             `json:"epoch"`
	Attempt    int             `json:"attempt"`
	Run        int64           `json:"run"`
	Type       EventType       `json:"type"`
	At         time.Time       `json:"at"`
	Worker     string          `json:"worker,omitempty"`
	ErrorClass string          `json:"error_class,omitempty"`
	Message    string          `json:"message,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"` // nil = none
}

// errEvent is wrapped by every error of DecodeEvent.
var errEvent = errors.New("not an event record")

// EncodeEvent makes the record of an event, keyed by the task's id; the caller
// sets its Topic. Texts are cut at their bounds. Data that is not JSON, or too
// large, is left out.
func EncodeEvent(e *Event) *kgo.Record {
	c := *e
	c.Worker = Clip(c.Worker, MaxErrorClass)
	c.ErrorClass = Clip(c.ErrorClass, MaxErrorClass)
	c.Message = ClipMessage(c.Message)
	if len(c.Data) > MaxEventData || !json.Valid(c.Data) {
		c.Data = nil
	}
	b, err := eventJSON(&c)
	if err != nil { // a time outside the years 0 to 9999
		c.At = time.Unix(0, 0).UTC()
		b, _ = eventJSON(&c)
	}
	return &kgo.Record{Key: []byte(c.TaskID), Value: b, Timestamp: e.At}
}

// eventJSON leaves <, > and & as they are: escaped, data within its bound would
// come to six times as much, and be dropped by DecodeEvent.
func eventJSON(e *Event) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(e)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// DecodeEvent reads what EncodeEvent wrote. Types that this version does not
// know are kept: a newer worker may write them.
func DecodeEvent(r *kgo.Record) (*Event, error) {
	var e Event
	if err := json.Unmarshal(r.Value, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", errEvent, err)
	}
	if _, err := schemas.ParseID(e.TaskID); err != nil {
		return nil, fmt.Errorf("%w: task_id: %w", errEvent, err)
	}
	if e.Type == "" || len(e.Type) > 32 || e.Epoch < 0 || e.Attempt < 0 || e.Epoch > 1<<15 || e.Attempt > 1<<30 {
		return nil, fmt.Errorf("%w: type, epoch or attempt out of range", errEvent)
	}
	if e.At.IsZero() {
		e.At = r.Timestamp
	}
	e.Worker = Clip(e.Worker, MaxErrorClass)
	e.ErrorClass = Clip(e.ErrorClass, MaxErrorClass)
	e.Message = ClipMessage(e.Message)
	e.Type = EventType(Clip(string(e.Type), 48))
	if len(e.Data) > MaxEventData {
		e.Data = nil
	}
	return &e, nil
}

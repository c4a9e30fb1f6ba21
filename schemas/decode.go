package schemas

// Kafka record → Task. Anyone may produce to a topic, so everything is checked,
// and what cannot be read is said by name, never by value.

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of what a record may hold, beyond those of a task.
const (
	maxRecordHeaders = 128
	maxAttribute     = 2048      // bytes of ce_dataschema, ce_traceparent, content-type, tracestate
	maxAttempt       = 1 << 20   //
	maxEpoch         = 1<<15 - 1 // run = epoch × 2^48 + … must fit an int64
	maxDue           = 253402300799999
)

// DecodeError says which part of a record cannot be read and why. It never
// holds the value: letters and logs are read by people who may not see it.
type DecodeError struct {
	Field  string // header name, "key" or "value"
	Detail string
	reason Reason
}

// Error implements error.
func (e *DecodeError) Error() string { return "record: " + e.Field + ": " + e.Detail }

// Reason is the reason of the dead letter: too_large for an oversize value,
// else undecodable.
func (e *DecodeError) Reason() Reason {
	if e.reason == "" {
		return ReasonUndecodable
	}
	return e.reason
}

// DecodeRecord reads a record of tasks.<queue> or retry.<tier>.
//
// Queue is set only from perdure_queue (retry topics); on tasks.<queue> the
// caller sets it from the topic. Payload aliases value; the strings are copies.
// Times are in UTC; Time is zero where the producer gave none. Task.Headers holds the user's headers, the per-hop
// traceparent, tracestate and baggage, and CloudEvents extension attributes
// under their ce_ names; of a repeated user header the last one counts.
//
// The error is always a *DecodeError. The Task returned with it is zero except
// for ID, Kind, Queue, Key and Epoch, each where it could be read and only
// if the id could.
func DecodeRecord[H RecordHeader](key, value []byte, headers []H) (Task, error) {
	d := decoder{}
	for _, h := range headers[:min(len(headers), maxRecordHeaders)] {
		d.take(Header(h))
	}
	return d.task(key, value, len(headers))
}

// attribute is the place of a known header in decoder.raw.
type attribute int

const (
	aSpecVersion attribute = iota
	aID
	aSource
	aType
	aTime
	aPartitionKey
	aDataSchema
	aExpiry
	aTraceParent
	aContentType
	aAttempt
	aEpoch
	aRun
	aDue
	aQueue
	aOrder
	aUnique
	aRepair
	aLine
	aPlace
	attributes
)

var attributeNames = [attributes]string{
	HeaderSpecVersion, HeaderID, HeaderSource, HeaderType, HeaderTime, HeaderPartitionKey,
	HeaderDataSchema, HeaderExpiry, HeaderTraceParent, HeaderContentType,
	HeaderAttempt, HeaderEpoch, HeaderRun, HeaderDue, HeaderQueue, HeaderOrder, HeaderUnique, HeaderRepair,
	HeaderLine, HeaderPlace,
}

// attributeOf returns the place of a header name, -1 for one that is not known.
func attributeOf(name string) attribute {
	switch name {
	case HeaderSpecVersion:
		return aSpecVersion
	case HeaderID:
		return aID
	case HeaderSource:
		return aSource
	case HeaderType:
		return aType
	case HeaderTime:
		return aTime
	case HeaderPartitionKey:
		return aPartitionKey
	case HeaderDataSchema:
		return aDataSchema
	case HeaderExpiry:
		return aExpiry
	case HeaderTraceParent:
		return aTraceParent
	case HeaderContentType:
		return aContentType
	case HeaderAttempt:
		return aAttempt
	case HeaderEpoch:
		return aEpoch
	case HeaderRun:
		return aRun
	case HeaderDue:
		return aDue
	case HeaderQueue:
		return aQueue
	case HeaderOrder:
		return aOrder
	case HeaderUnique:
		return aUnique
	case HeaderRepair:
		return aRepair
	case HeaderLine:
		return aLine
	case HeaderPlace:
		return aPlace
	}
	return -1
}

// decoder collects the headers of one record, then reads them.
type decoder struct {
	raw   [attributes][]byte
	seen  uint32 // bit per attribute
	size  int    // bytes of all known values
	other []Header
	ours  []string     // perdure_ headers that are not known here
	text  string       // all known text values, one allocation
	err   *DecodeError // the first
}

func (d *decoder) fail(field, format string, args ...any) {
	if d.err == nil {
		d.err = &DecodeError{Field: field, Detail: fmt.Sprintf(format, args...)}
	}
}

// take files one header.
func (d *decoder) take(h Header) {
	a := attributeOf(h.Key)
	if a < 0 {
		d.takeOther(h)
		return
	}
	if d.seen&(1<<a) != 0 {
		d.fail(h.Key, "is given twice")
		// Which one is true cannot be known, so neither is believed.
		d.size -= len(d.raw[a])
		d.raw[a] = nil
		return
	}
	d.seen |= 1 << a
	d.raw[a] = h.Value
	d.size += len(h.Value)
}

func (d *decoder) takeOther(h Header) {
	if strings.HasPrefix(h.Key, prefixKafka) {
		return // a dead letter's, from Kafka: not the task's
	}
	if strings.HasPrefix(h.Key, prefixOurs) {
		// Of a later version, or a dead letter's: nothing to read.
		if slices.Contains(d.ours, h.Key) {
			d.fail(clip(h.Key), "is given twice")
		}
		d.ours = append(d.ours, h.Key)
		return
	}
	d.other = append(d.other, h)
}

// task reads what was taken.
func (d *decoder) task(key, value []byte, n int) (Task, error) {
	d.keepText()
	var t Task
	d.identity(&t, key)
	if n > maxRecordHeaders {
		d.fail("headers", "are more than %d", maxRecordHeaders)
	}
	d.attributes(&t)
	d.delivery(&t)
	d.headers(&t)
	d.payload(&t, value)
	if d.err == nil {
		return t, nil
	}
	known := Task{}
	if t.ID != "" {
		known = Task{ID: t.ID, Kind: t.Kind, Queue: t.Queue, Key: t.Key, Epoch: t.Epoch}
	}
	return known, d.err
}

// has reports whether a header was given, with any value.
func (d *decoder) has(a attribute) bool { return d.seen&(1<<a) != 0 }

// keepText copies the values that become strings of the Task into one string.
func (d *decoder) keepText() {
	const limit = 8 << 10 // more than all their limits together
	if d.size > limit {
		return // some value is over its limit, and textOf copies singly
	}
	var b strings.Builder
	b.Grow(d.size)
	for a := range d.raw {
		if copied(attribute(a)) {
			b.Write(d.raw[a])
		}
	}
	d.text = b.String()
}

func copied(a attribute) bool {
	switch a {
	case aID, aType, aPartitionKey, aDataSchema, aTraceParent, aQueue:
		return true
	}
	return false
}

// textOf returns a copied value. Values must be asked for in any order, so the
// place is found again by walking the six before it.
func (d *decoder) textOf(a attribute) string {
	if d.text == "" {
		return string(d.raw[a])
	}
	at := 0
	for b := range a {
		if copied(b) {
			at += len(d.raw[b])
		}
	}
	return d.text[at : at+len(d.raw[a])]
}

// payload checks the value last: a letter names the header that is wrong before
// it says that the value is empty.
func (d *decoder) payload(t *Task, value []byte) {
	switch {
	case len(value) == 0:
		d.fail("value", "is empty")
	case len(value) > MaxPayload:
		d.fail("value", "is larger than %d bytes", MaxPayload)
		if d.err.Field == "value" {
			d.err.reason = ReasonTooLarge
		}
	default:
		t.Payload = value
	}
}

// parseTime reads RFC 3339 strictly; ok is false for anything else.
func parseTime(b []byte) (time.Time, bool) {
	if len(b) > 64 {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil || t.Year() < 1 {
		return time.Time{}, false
	}
	t = t.UTC()
	return t, !t.IsZero() && t.Year() >= 1 && t.Year() <= 9999
}

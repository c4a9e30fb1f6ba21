package schemas

// CloudEvent from anywhere → what a task is made of. The attributes mean what
// they mean on a task's record; only id and source are the sender's own.

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
	"time"
)

// Event is a CloudEvent that is to become a task.
type Event struct {
	ID, Source  string
	Time        time.Time         // the sender's; zero = none
	Kind        string            // type
	Key         string            // partitionkey, "" = none
	Payload     []byte            // data
	ContentType string            // datacontenttype
	Deadline    time.Time         // expirytime, zero = none
	DataSchema  string            // "" = none
	TraceParent string            // "" = none
	Extensions  map[string]string // the other attributes, as "subject"; nil = none
}

// DecodeEvent reads an event whose attributes are written as those of a record
// in the Kafka binding's binary mode: ce_type, content-type. Other headers are
// passed over. Payload aliases data; the strings are copies.
//
// The error is always a *DecodeError, whose Field is the header's name, "value"
// for the data, or "headers" for all of them.
func DecodeEvent[H RecordHeader](attributes []H, data []byte) (Event, error) {
	d := decoder{}
	for _, a := range attributes[:min(len(attributes), maxRecordHeaders)] {
		h := Header(a)
		if _, is := extension(h.Key); is || h.Key == HeaderContentType {
			d.take(h)
		}
	}
	if len(attributes) > maxRecordHeaders {
		d.fail("headers", "are more than %d", maxRecordHeaders)
	}
	d.keepText()
	if !d.has(aSpecVersion) {
		d.fail(HeaderSpecVersion, "is missing")
	}
	d.specVersion()
	e := Event{ID: d.name(aID), Source: d.name(aSource), Kind: d.kind(), Key: d.key()}
	if e.Source != "" && !uriReference(e.Source) {
		d.fail(HeaderSource, "is not a URI-reference such as /shop/orders")
	}
	var t Task
	d.attributes(&t)
	d.headers(&t)
	d.payload(&t, data)
	if d.err != nil {
		return Event{}, d.err
	}
	e.Time, e.Deadline, e.DataSchema, e.TraceParent = t.Time, t.Deadline, t.DataSchema, t.TraceParent
	e.ContentType, e.Payload = t.ContentType, t.Payload
	for name, value := range t.Headers {
		if e.Extensions == nil {
			e.Extensions = make(map[string]string, len(t.Headers))
		}
		e.Extensions[strings.TrimPrefix(name, prefixCloudEvents)] = value
	}
	return e, nil
}

// name reads an attribute that must be there.
func (d *decoder) name(a attribute) string {
	v := d.raw[a]
	if len(v) == 0 {
		d.fail(attributeNames[a], "is missing")
	} else if detail := badText(v, maxAttribute); detail != "" {
		d.fail(attributeNames[a], "%s", detail)
	}
	return string(v)
}

// uriReference is as strict as CloudEvents' SDK, and refuses blanks, of which no
// URI has any: IdempotencyKey relies on it.
func uriReference(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	_, err := url.Parse(s)
	return err == nil
}

// IdempotencyKey makes the same event one task however often it is delivered:
// source and id are unique together. It is "<source> <id>", or its SHA-256 where
// that is longer than a key may be.
func (e *Event) IdempotencyKey() string {
	key := e.Source + " " + e.ID
	if len(key) <= MaxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

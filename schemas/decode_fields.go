package schemas

// The rules of each header that DecodeRecord reads.

import (
	"time"
	"unicode/utf8"
)

// identity reads what names the task and where it belongs.
func (d *decoder) identity(t *Task, key []byte) {
	d.specVersion()

	var source string
	if !d.has(aID) {
		d.fail(HeaderID, "is missing")
	} else if id, err := ParseID(string(d.raw[aID])); err != nil {
		d.fail(HeaderID, "%s", err)
	} else {
		t.ID, source = d.textOf(aID), id.Source
	}

	if v := d.raw[aSource]; !d.has(aSource) {
		d.fail(HeaderSource, "is missing")
	} else if n := len(SourcePrefix); len(v) < n || string(v[:n]) != SourcePrefix || string(v[n:]) != source {
		d.fail(HeaderSource, "must be %s<source>, of the source in %s", SourcePrefix, HeaderID)
	}

	t.Kind, t.Key = d.kind(), d.key()
	// A task's records must land on one partition: the claim depends on it.
	if t.ID != "" && string(key) != t.RecordKey() {
		d.fail("key", "must equal %s, or %s where that is absent", HeaderPartitionKey, HeaderID)
	}
	if d.has(aEpoch) {
		t.Epoch = int(d.number(aEpoch, 0, maxEpoch))
	}
	if d.has(aQueue) {
		if v := d.raw[aQueue]; !ValidQueue(string(v)) {
			d.fail(HeaderQueue, queueRule)
		} else {
			t.Queue = d.textOf(aQueue)
		}
	}
}

func (d *decoder) specVersion() {
	if v := d.raw[aSpecVersion]; !d.has(aSpecVersion) {
		d.fail(HeaderSpecVersion, "is missing: want a CloudEvent in binary mode")
	} else if string(v) != SpecVersion {
		d.fail(HeaderSpecVersion, "must be %s", SpecVersion)
	}
}

// kind returns "" where it fails.
func (d *decoder) kind() string {
	if v := d.raw[aType]; !d.has(aType) {
		d.fail(HeaderType, "is missing")
	} else if !validKind(v) {
		d.fail(HeaderType, kindRule)
	} else {
		return d.textOf(aType)
	}
	return ""
}

// key returns "" where there is none, and where it fails.
func (d *decoder) key() string {
	if !d.has(aPartitionKey) {
		return ""
	}
	if v := d.raw[aPartitionKey]; len(v) == 0 {
		d.fail(HeaderPartitionKey, "is empty: leave it out for a task without a key")
	} else if detail := badText(v, MaxKey); detail != "" {
		d.fail(HeaderPartitionKey, "%s", detail)
	} else {
		return d.textOf(aPartitionKey)
	}
	return ""
}

// attributes reads the other CloudEvents attributes.
func (d *decoder) attributes(t *Task) {
	t.Time = d.time(aTime)
	t.Deadline = d.time(aExpiry)
	t.DataSchema = d.attribute(aDataSchema)
	t.TraceParent = d.attribute(aTraceParent)

	v := d.raw[aContentType]
	switch {
	case len(v) == 0 || string(v) == JSONContentType:
		t.ContentType = JSONContentType
	case saysStructured(string(v)):
		d.fail(HeaderContentType, "says structured mode: want binary mode, attributes in ce_ headers")
	default:
		if detail := badText(v, maxAttribute); detail != "" {
			d.fail(HeaderContentType, "%s", detail)
		} else if s := string(v); !ValidContentType(s) {
			d.fail(HeaderContentType, "is not a media type")
		} else {
			t.ContentType = s
		}
	}
}

// delivery reads the perdure_ headers that are about this delivery.
func (d *decoder) delivery(t *Task) {
	t.Attempt = 1
	if d.has(aAttempt) {
		t.Attempt = int(d.number(aAttempt, 1, maxAttempt))
	}
	if d.has(aRun) {
		t.Run = d.number(aRun, 0, 1<<63-1)
	}
	if d.has(aDue) {
		t.Due = time.UnixMilli(d.number(aDue, 0, maxDue)).UTC()
	}
	if d.has(aOrder) {
		if string(d.raw[aOrder]) != orderKey {
			d.fail(HeaderOrder, "must be %q", orderKey)
		}
		t.Ordered = true
	}
	if d.has(aUnique) {
		if string(d.raw[aUnique]) != UniqueCompleted {
			d.fail(HeaderUnique, "must be %q", UniqueCompleted)
		}
		t.Unique = true
	}
	if d.has(aRepair) {
		t.Repair = int(d.number(aRepair, 1, MaxRepairs))
	}
	if d.has(aLine) {
		if v := d.raw[aLine]; !validLine(string(v)) {
			d.fail(HeaderLine, "must be what a key's line is told: from, ask, lift, end or dead")
		} else {
			t.Line = string(v)
		}
	}
	if d.has(aPlace) {
		t.Place = d.number(aPlace, 1, 1<<63-1)
	}
}

// headers keeps the headers that are not ours.
func (d *decoder) headers(t *Task) {
	if len(d.other) == 0 {
		return
	}
	// Beside the user's own: extension attributes and the three trace headers.
	if len(d.other) > 2*MaxHeaders {
		d.fail("headers", "of the user are more than %d", 2*MaxHeaders)
		return
	}
	size := 0
	t.Headers = make(map[string]string, len(d.other))
	for _, h := range d.other {
		size += len(h.Key) + len(h.Value)
		if size > 2*MaxHeaderBytes {
			d.fail("headers", "of the user are larger than %d bytes", 2*MaxHeaderBytes)
			return
		}
		if !utf8.ValidString(h.Key) || h.Key == "" || hasNUL(h.Key) {
			d.fail("headers", "have a name that is empty, not UTF-8 or holds a NUL")
			return
		}
		if detail := badText(h.Value, MaxHeaderBytes); detail != "" {
			d.fail("header "+clip(h.Key), "%s", detail)
			return
		}
		if ext, ok := extension(h.Key); ok {
			if !validExtension(ext) {
				d.fail(clip(h.Key), "is not a CloudEvents attribute: want ce_ and [a-z0-9]")
				return
			}
			if _, twice := t.Headers[h.Key]; twice {
				d.fail(clip(h.Key), "is given twice")
				return
			}
		}
		t.Headers[h.Key] = string(h.Value)
	}
}

func (d *decoder) number(a attribute, low, high int64) int64 {
	n, ok := canonicalFrom(d.raw[a], low, high)
	if !ok {
		d.fail(attributeNames[a], "must be a plain decimal number from %d to %d", low, high)
		return 0
	}
	return n
}

func (d *decoder) time(a attribute) time.Time {
	if !d.has(a) {
		return time.Time{}
	}
	t, ok := parseTime(d.raw[a])
	if !ok {
		d.fail(attributeNames[a], "must be an RFC 3339 time")
	}
	return t
}

func (d *decoder) attribute(a attribute) string {
	if !d.has(a) {
		return ""
	}
	v := d.raw[a]
	if len(v) == 0 {
		d.fail(attributeNames[a], "is empty: leave it out")
		return ""
	}
	if detail := badText(v, maxAttribute); detail != "" {
		d.fail(attributeNames[a], "%s", detail)
		return ""
	}
	return d.textOf(a)
}

// canonicalFrom reads a decimal number that has exactly one spelling.
func canonicalFrom(b []byte, low, high int64) (int64, bool) {
	if len(b) == 1 && b[0] == '0' {
		return 0, low <= 0
	}
	if len(b) > 19 {
		return 0, false
	}
	n, ok := canonical(string(b), high)
	return n, ok && n >= low
}

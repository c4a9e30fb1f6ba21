package relay

// Outbox row → Kafka record, or the reason why it is dead before it begins.

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/schemas"
)

// traceParent is W3C's header; a producer's own is also kept as ce_traceparent.
const traceParent = "traceparent"

// encoder makes records. Only the term's goroutine uses it.
type encoder struct {
	r    *Relay
	ctx  context.Context
	now  time.Time
	kind *schemas.Kind // of the last row; nil = not in the catalog
	name string        // of that kind
	task schemas.Task  // the last row's, used again
}

// begin is called before a pass's first record.
func (e *encoder) begin(ctx context.Context, now time.Time) { e.ctx, e.now = ctx, now }

// encode makes the record of a row for topic, in the slab's memory. The error says
// that the row's headers are not a JSON object of strings; the record is then
// whole but for them.
func (e *encoder) encode(m *slab, o *row, topic string, rec *kgo.Record) (bad error) {
	if o.kind != e.name {
		e.name, e.kind = o.kind, e.r.deps.Catalog.Kind(o.kind)
	}
	t := &e.task
	*t = schemas.Task{
		ID: o.taskID, Kind: o.kind, Queue: o.queue, Key: o.key,
		Payload: o.payload, ContentType: o.contentType,
		Time: o.created, Deadline: o.deadline,
		Attempt: 1, Epoch: o.epoch, Due: o.due,
	}
	if t.ID == "" {
		t.ID = schemas.ID{Source: e.r.cfg.Source, Generation: o.generation, Seq: o.id}.String()
	}
	if e.kind != nil {
		t.DataSchema, t.Ordered = e.kind.SchemaURI, e.kind.Ordered
	}
	if o.headers != nil {
		bad = userHeaders(t, o.headers)
	}
	key, from := len(m.values), len(m.headers)
	m.values = append(m.values, t.RecordKey()...)
	to := len(m.values)
	keyBytes := m.values[key:to:to]
	m.headers, m.values = schemas.AppendRecordHeadersIn(m.headers, m.values, t)
	*rec = kgo.Record{
		Topic:     topic,
		Key:       keyBytes,
		Value:     o.payload,
		Headers:   m.headers[from:len(m.headers):len(m.headers)],
		Timestamp: e.now,
		Context:   e.ctx,
	}
	return bad
}

// condemn makes the record of the row encoded last say that it must not run, where
// its key has to wait behind it (on_dead: block): the letter is made by its worker, in
// its turn. It reports false for all other deaths: what cannot be a record does not
// block.
func (e *encoder) condemn(m *slab, rec *kgo.Record, d *death, limit int32) bool {
	t := &e.task
	if d.reason != schemas.ReasonSchema || e.kind == nil || !e.kind.Ordered || !e.kind.BlockOnDead || t.Key == "" {
		return false
	}
	line, _ := schemas.ParseLine(t.Line) // one that was let go keeps its place among the others
	line.Verb, line.Why = schemas.LineDead, dlq.ClipMessage(d.message)
	t.Line = line.String()
	from := len(m.headers)
	m.headers, m.values = schemas.AppendRecordHeadersIn(m.headers, m.values, t)
	rec.Headers = m.headers[from:len(m.headers):len(m.headers)]
	return recordSize(rec) <= int(limit)
}

// userHeaders reads the column of them into t.
func userHeaders(t *schemas.Task, column []byte) error {
	if err := json.Unmarshal(column, &t.Headers); err != nil {
		t.Headers = nil
		return fmt.Errorf("headers of the outbox row are not a JSON object of strings: %w", err)
	}
	t.Unique = t.Headers[schemas.HeaderUnique] == schemas.UniqueCompleted
	if n := t.Headers[schemas.HeaderRepair]; n != "" { // of a replay; no user can write it
		repair, err := strconv.Atoi(n)
		if err != nil || repair < 1 || repair > schemas.MaxRepairs {
			return fmt.Errorf("header %s of the outbox row is not a number of repairs", schemas.HeaderRepair)
		}
		t.Repair = repair
	}
	t.Line = t.Headers[schemas.HeaderLine]
	t.Place, _ = strconv.ParseInt(t.Headers[schemas.HeaderPlace], 10, 64) // 0 where there is none
	t.TraceParent = t.Headers[schemas.HeaderTraceParent]
	if t.TraceParent == "" {
		t.TraceParent = t.Headers[traceParent]
	}
	return nil
}

// recordSize is at least what a batch with only this record takes, uncompressed.
func recordSize(r *kgo.Record) int {
	n := 61 + 40 + len(r.Key) + len(r.Value) // a batch's head; lengths and deltas of the record
	for _, h := range r.Headers {
		n += 10 + len(h.Key) + len(h.Value)
	}
	return n
}

// death is why a row becomes a letter instead of a record.
type death struct {
	reason  schemas.Reason
	class   string
	message string
}

// examine looks for what no worker could run. Rows that were held against their
// schema before acceptance (HTTP, Go) say so and are not held against it again.
func (r *Relay) examine(o *row, rec *kgo.Record, limit int32, bad error) *death {
	if o.bad != nil {
		return &death{schemas.ReasonUndecodable, "bundle", o.bad.Error()}
	}
	if bad != nil {
		return &death{schemas.ReasonUndecodable, "headers", bad.Error()}
	}
	if n := recordSize(rec); n > int(limit) {
		return &death{schemas.ReasonTooLarge, "record", fmt.Sprintf("the record has %d bytes, topic %s takes %d", n, rec.Topic, limit)}
	}
	if k := r.deps.Catalog.Kind(o.kind); k != nil && !o.checked {
		if errs := k.ValidatePayload(o.payload, o.contentType); len(errs) > 0 {
			parts := make([]string, len(errs))
			for i, e := range errs {
				parts[i] = e.Pointer + " " + e.Detail
			}
			return &death{schemas.ReasonSchema, "schema", strings.Join(parts, "; ")}
		}
	}
	return nil
}

// letter is the dead letter of a row. Its origin has the queue's topic,
// partition -1 and the row's id: no record of it was ever produced there. A
// payload that does not fit into limit bytes with the rest is cut: the outbox row
// has all of it, for as long as the history.
func (r *Relay) letter(o *row, rec *kgo.Record, d *death, limit int32) *kgo.Record {
	l := dlq.From(rec, "")
	l.Origin = dlq.Origin{Topic: rec.Topic, Partition: -1, Offset: o.id}
	l.Reason, l.ErrorClass, l.Message = d.reason, d.class, d.message
	l.Release, l.Catalog = r.cfg.Release, r.deps.Catalog.Hash
	out := dlq.Encode(l)
	if over := recordSize(out) - int(limit); over > 0 && limit > 0 {
		l.Message += fmt.Sprintf("; the payload of %d bytes is cut, outbox row %d has it", len(o.payload), o.rowID)
		l.Value = l.Value[:max(0, min(len(out.Value), len(l.Value))-over-256)]
		out = dlq.Encode(l)
	}
	out.Topic = r.deps.Names.DLQ(o.queue)
	return out
}

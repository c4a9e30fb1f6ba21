package dlq

// Record → row: what a batch writes.

import (
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// batch is what one transaction writes.
type batch struct {
	letters  []letterRow
	resolved []Resolution
	answers  []*Answer
	events   []eventRow
	ended    []string // tasks that have ended: their unique keys are free
	strays   int      // of letters
	foreign  int      // another source's: not written
	skipped  int
}

type letterRow struct {
	*Letter
	id, queue, key string
	contentType    string
	deadline       *time.Time
	headers        []byte // JSON
	attempts       []byte // JSON
	place          int64  // the offset that its task had first
	first          string // what the first version of Fingerprint says, where Fingerprint is the present one's
	at             *kgo.Record
}

type eventRow struct {
	*Event
	at *kgo.Record
}

// rows turns records into what is written of them. Nothing is dropped but what
// is no event on an event topic, and what is another source's.
func (x *Index) rows(records []*kgo.Record) *batch {
	b := &batch{}
	for _, r := range records {
		queue, dead := x.queues[r.Topic]
		if !dead {
			e, err := DecodeEvent(r)
			if err != nil {
				b.skipped++
				x.log.Warn("dlq index: not an event; skipped", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
				continue
			}
			if x.foreign(e.TaskID) {
				b.foreign++
				continue
			}
			if e.Type == EventReleased {
				b.ended = append(b.ended, e.TaskID)
				continue
			}
			b.events = append(b.events, eventRow{e, r})
			continue
		}
		if a, err := DecodeAnswer(r); a != nil || err != nil {
			x.answer(b, a, queue, r, err)
			continue
		}
		l, res, err := Decode(r)
		switch {
		case err != nil:
			x.log.Warn("dlq index: not a dead letter; kept as one that cannot be decoded", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
			b.strays++
			b.letters = append(b.letters, row(Stray(r, err), queue, r))
		case res != nil && x.foreign(res.TaskID), res == nil && l.Reason != schemas.ReasonUndecodable && x.foreign(l.TaskID):
			b.foreign++
		case res != nil:
			b.resolved = append(b.resolved, *res)
			b.ended = append(b.ended, res.TaskID)
		default:
			b.letters = append(b.letters, row(l, queue, r))
		}
	}
	return b
}

// answer files a worker's answer to a lift.
func (x *Index) answer(b *batch, a *Answer, queue string, r *kgo.Record, err error) {
	switch {
	case err != nil:
		b.skipped++
		x.log.Warn("dlq index: an answer to a lift cannot be read; skipped", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
	case x.foreign(a.TaskID):
		b.foreign++
	default:
		a.Queue = queue
		b.answers = append(b.answers, a)
	}
}

// plain is the batch for one record whose row Postgres refused with why: as
// little of it as says where to look.
func (x *Index) plain(r *kgo.Record, why error) *batch {
	queue, dead := x.queues[r.Topic]
	x.log.Error("dlq index: Postgres refuses a value of a record", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", why)
	if e, err := DecodeEvent(r); !dead && err == nil && e.Data != nil {
		e.Data = nil // JSON that jsonb cannot hold
		return &batch{events: []eventRow{{e, r}}}
	}
	if !dead {
		return &batch{skipped: 1}
	}
	l := Stray(&kgo.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Value: r.Value, Timestamp: r.Timestamp}, errors.New("a value that Postgres cannot hold"))
	return &batch{letters: []letterRow{row(l, queue, r)}, strays: 1}
}

// badData reports whether Postgres refused a value, so that trying again
// cannot help: data exceptions and limits (an index row too large).
func badData(err error) bool {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) || len(pe.Code) != 5 {
		return false
	}
	return pe.Code[:2] == "22" || pe.Code[:2] == "54" || pe.Code == "23514" || pe.Code == "23502"
}

// isRival reports whether a letter was there after all.
func isRival(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23505"
}

func row(l *Letter, queue string, r *kgo.Record) letterRow {
	w := letterRow{Letter: l, id: l.ID(), queue: queue, at: r}
	w.key = Clip(header(l.Headers, schemas.HeaderPartitionKey), schemas.MaxKey)
	w.place = l.Origin.Offset
	if n, err := strconv.ParseInt(header(l.Headers, schemas.HeaderPlace), 10, 64); err == nil && n > 0 {
		w.place = n - 1
	}
	w.contentType = Clip(header(l.Headers, schemas.HeaderContentType), MaxErrorClass)
	w.Kind = Clip(l.Kind, MaxErrorClass)
	if t, err := time.Parse(time.RFC3339Nano, header(l.Headers, schemas.HeaderExpiry)); err == nil {
		t = sane(t)
		w.deadline = &t
	}
	w.headers = encodeHeaders(l.Headers)
	if i := ownBlock(r); i >= 0 {
		w.attempts = []byte(header(r.Headers[i:], schemas.HeaderAttempts))
	}
	if !asWritten(w.attempts, l.Attempts) {
		w.attempts = EncodeAttempts(l.Attempts, MaxAttempts)
	}
	w.DiedAt = sane(l.DiedAt)
	return w
}

// sane brings a time into what Postgres and JSON can hold.
func sane(t time.Time) time.Time {
	if t.Year() < 1970 || t.Year() > 9999 {
		return time.Unix(0, 0)
	}
	return t
}

package client

// A checked task, and its columns.

import (
	"time"

	"github.com/perdure/perdure/schemas"
)

// row is a task that may be written. Zero times and empty strings are nulls.
type row struct {
	kind, queue, key, contentType string
	headers                       string // a JSON object
	payload                       []byte
	runAt, deadline               time.Time
	scheduled                     bool

	idempotencyKey, producer string

	uniqueKey string
	uniqueFor time.Duration // with uniqueKey; 0 = until the task is completed
}

// keyed reports whether another task may stand where this one would.
func (r *row) keyed() bool { return r.idempotencyKey != "" || r.uniqueKey != "" }

func nullText(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nullTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

func textPtr(s *string) *string {
	if *s == "" {
		return nil
	}
	return s
}

func timePtr(t *time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return t
}

func periodPtr(d *time.Duration) *time.Duration {
	if *d == 0 {
		return nil
	}
	return d
}

func ref(source string, generation int, seq int64, scheduled, replayed bool) Ref {
	state := schemas.StateQueued
	if scheduled {
		state = schemas.StateScheduled
	}
	return Ref{
		ID:  schemas.ID{Source: source, Generation: generation, Seq: seq}.String(),
		Seq: seq, State: state, Replayed: replayed,
	}
}

// columns are rows turned on their side, for unnest.
type columns struct {
	ids             []int64
	runAt, deadline []*time.Time
	kind, queue     []string
	key, headers    []*string
	contentType     []string
	payload         [][]byte
	producer        []*string
	idempotencyKey  []string
	scheduled       []bool
	uniqueKey       []string
	uniqueFor       []*time.Duration
}

func (c *columns) add(id int64, r *row) {
	c.ids = append(c.ids, id)
	c.runAt = append(c.runAt, timePtr(&r.runAt))
	c.deadline = append(c.deadline, timePtr(&r.deadline))
	c.kind = append(c.kind, r.kind)
	c.queue = append(c.queue, r.queue)
	c.key = append(c.key, textPtr(&r.key))
	c.contentType = append(c.contentType, r.contentType)
	c.headers = append(c.headers, textPtr(&r.headers))
	c.payload = append(c.payload, r.payload)
	c.producer = append(c.producer, textPtr(&r.producer))
	c.idempotencyKey = append(c.idempotencyKey, r.idempotencyKey)
	c.scheduled = append(c.scheduled, r.scheduled)
	c.uniqueKey = append(c.uniqueKey, r.uniqueKey)
	c.uniqueFor = append(c.uniqueFor, periodPtr(&r.uniqueFor))
}

// args are those of sqlInsertMany; sqlInsertManyKeyed takes three more.
func (c *columns) args(generation int) []any {
	return []any{c.ids, generation, c.runAt, c.deadline, c.kind, c.queue, c.key, c.contentType, c.headers, c.payload}
}

package balance

// Where a task is, from what was read of it. No I/O.

import (
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

type class int

const (
	lost class = iota // nowhere, as far as was read
	completed
	waiting
	dead
	discarded
	cancelled
)

// place is a task's class and, within it, where it is.
type place struct {
	class    class
	where    string // waiting: unrelayed, scheduled, parked, held, queued, running, retrying
	inferred bool   // completed
	why      string // lost
}

func wait(where string) place { return place{class: waiting, where: where} }

func gone(format string, args ...any) place { return place{why: fmt.Sprintf(format, args...)} }

// hop is where a record was produced.
type hop struct {
	topic     string
	partition int32
	offset    int64
	at        time.Time // relayed, by the database's clock
	acked     bool      // below the group's low watermark, or in its commit's metadata
}

type letter struct {
	id    string
	epoch int
	state schemas.LetterState
	by    string // resolved by
}

func (l *letter) unfinished() bool {
	return l.state == schemas.LetterOpen || l.state == schemas.LetterHeld
}

// replay is the newest outbox row that a letter was replayed with.
type replay struct {
	seq    int64
	found  bool // its outbox row is there
	passed bool
	filed  string
	hop    *hop
}

// world is what one look at Kafka and Redis found.
type world struct {
	began   time.Time                    // of this life of Redis; what was relayed before may be forgotten
	caught  func(queueTopic string) bool // the index has read all letters of a dlq topic that were there
	letters map[string]bool              // dead-letter topics
	acked   func(topic string, p int32, offset int64) bool
	dlqOf   map[string]string // task topic → dead-letter topic
}

// classify decides, the surest proof first.
func classify(t *task, w *world) place {
	l, c := t.letter, t.claim
	switch {
	case t.done || c.State == claims.Done:
		return place{class: completed}
	case c.State == claims.Cancelled:
		return place{class: cancelled}
	case l != nil && l.unfinished() && (c.Epoch <= l.epoch || c.State == claims.Dead):
		return place{class: dead}
	case c.State == claims.Running && (!c.Stale || !w.acked(c.Coord.Topic, c.Coord.Partition, c.Coord.Offset)):
		// Its record is acknowledged only after its outcome stands in Redis.
		if w.acked(c.Coord.Topic, c.Coord.Partition, c.Coord.Offset) {
			return gone("its claim says running, and its record %s/%d/%d is acknowledged: nothing will deliver it again",
				c.Coord.Topic, c.Coord.Partition, c.Coord.Offset)
		}
		return wait("running")
	case c.State == claims.Waiting:
		return wait("retrying")
	case l != nil && l.state == schemas.LetterDiscarded:
		return place{class: discarded}
	case l != nil && l.state == schemas.LetterResolved && l.by == "cancelled":
		return place{class: cancelled}
	case l != nil && l.state == schemas.LetterResolved && l.by != "replay":
		return place{class: completed} // its resolved record was read
	case l != nil:
		return classifyReplay(t, w)
	}
	return classifyRecord(t.hop, t.passed, t.filed, true, c, w)
}

// classifyReplay is for a task whose newest letter went back into the outbox.
func classifyReplay(t *task, w *world) place {
	r := t.replay
	if r == nil {
		return gone("its letter %s is %s, and no replay has an outbox row for it", t.letter.id, t.letter.state)
	}
	c := t.claim
	if c.State == claims.Dead && c.Epoch <= t.letter.epoch {
		c = claims.Claim{} // of the death before the replay
	}
	return classifyRecord(r.hop, r.passed, r.filed, r.found, c, w)
}

// classifyRecord follows an outbox row: to where it is filed, or to its record.
func classifyRecord(h *hop, passed bool, filed string, found bool, c claims.Claim, w *world) place {
	switch {
	case h == nil && filed != "":
		return wait(filed)
	case h == nil && !found:
		return gone("its replay's outbox row is gone, and the relay has not logged it")
	case h == nil && !passed:
		return wait("unrelayed")
	case h == nil:
		return gone("the relay's cursor has passed its row without a trace")
	case w.letters[h.topic]:
		// Refused by the relay: the record is its letter.
		if w.caught(h.topic) {
			return gone("the relay made it a letter at %s/%d/%d, and the index does not have it", h.topic, h.partition, h.offset)
		}
		return place{class: dead}
	case c.State == claims.Dead:
		// The letter is made before the record at which the task died is
		// acknowledged, and that record, not the first, is the claim's.
		at, topic := c.Coord, h.topic
		if at.Topic != "" {
			topic = at.Topic
		}
		if !w.acked(at.Topic, at.Partition, at.Offset) || !w.caught(w.dlqOf[topic]) {
			return place{class: dead}
		}
		return gone("its claim says dead, its record %s/%d/%d is acknowledged, and the index, which has read all of %s, does not have its letter",
			at.Topic, at.Partition, at.Offset, w.dlqOf[topic])
	case !h.acked:
		return wait("queued")
	case h.at.Before(w.began):
		return place{class: completed, inferred: true}
	}
	return gone("its record %s/%d/%d is acknowledged, and it is not done, not waiting and not dead", h.topic, h.partition, h.offset)
}

package dispatcher

// The state of a task, from its traces.

import (
	"context"
	"encoding/json"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

// view fills in what does not depend on the state.
func (t *traces) view() *TaskView {
	v := &TaskView{ID: t.text, Kind: t.row.kind, Queue: t.row.queue, Key: t.row.key, UniqueKey: t.unique, Deadline: t.row.deadline}
	if l := t.lastLetter(); l != nil {
		v.Epoch = l.epoch
		if v.Kind == "" {
			v.Kind, v.Queue, v.Key = l.kind, l.queue, l.key
		}
	}
	if n := len(t.hops); n > 0 {
		v.Epoch = max(v.Epoch, t.hops[n-1].epoch)
	}
	for _, e := range t.events {
		v.Epoch = max(v.Epoch, e.epoch)
		if e.kind == "result" {
			v.Result = e.data
		}
	}
	return v
}

func (t *traces) lastLetter() *letterTrace {
	if n := len(t.letters); n > 0 {
		return &t.letters[n-1]
	}
	return nil
}

// state decides, the surest source first: the claim, then the last letter, then
// where the record is.
func (h *History) state(ctx context.Context, t *traces, v *TaskView) error {
	c, l := t.claim, t.lastLetter()
	if c.Stale && l != nil && l.epoch >= c.Epoch {
		c = claims.Claim{} // a failover lost what came after it; the letter is newer
	}
	switch c.State {
	case claims.Done:
		v.State = schemas.StateCompleted
		return nil
	case claims.Cancelled:
		v.State = schemas.StateCancelled
		return nil
	case claims.Running:
		v.State, v.Epoch, v.Attempt, v.Run, v.Worker = schemas.StateRunning, max(v.Epoch, c.Epoch), c.Attempt, c.Run, c.Owner
		return nil
	case claims.Waiting:
		v.State, v.Epoch, v.Attempt, v.Run = schemas.StateRetrying, max(v.Epoch, c.Epoch), c.Attempt, c.Run
		if c.Elsewhere > 0 && c.Report == nil {
			v.State, v.Waits, v.Attempt = schemas.StateWaiting, schemas.WaitExternal, c.Attempt-1
			return nil
		}
		if !c.Due.IsZero() {
			v.Due = &c.Due
		}
		t.waiting(v)
		return nil
	}
	// A claim that is dead at an epoch of which the index has no letter yet.
	if c.State == claims.Dead && (l == nil || l.epoch < c.Epoch) && c.Epoch >= v.Epoch {
		v.State, v.Epoch, v.Reason = schemas.StateDead, c.Epoch, schemas.Reason(c.Reason)
		return nil
	}
	if l != nil && l.epoch >= v.Epoch {
		switch schemas.LetterState(l.state) {
		case schemas.LetterOpen, schemas.LetterHeld:
			v.State, v.Reason, v.Letter = schemas.StateDead, schemas.Reason(l.reason), l.id
			return nil
		case schemas.LetterDiscarded:
			v.State, v.Reason, v.Letter = schemas.StateDiscarded, schemas.Reason(l.reason), l.id
			return nil
		}
	}
	if l != nil && l.state == string(schemas.LetterResolved) {
		switch l.resolvedBy {
		case "completed":
			v.State = schemas.StateCompleted
			return nil
		case "cancelled":
			v.State = schemas.StateCancelled
			return nil
		}
	}
	return h.place(ctx, t, v)
}

// waiting tells a wait for something outside from a wait for the next attempt:
// by the last event, which is best effort like all events.
func (t *traces) waiting(v *TaskView) {
	for i := len(t.events) - 1; i >= 0; i-- {
		switch e := &t.events[i]; e.kind {
		case "waiting":
			if reason := e.waits().Reason; reason != "" {
				v.State, v.Waits = schemas.StateWaiting, reason
			}
			return
		case "failed", "crashed", "in_doubt":
			return
		}
	}
}

// place decides by where the newest record is: nobody has claimed it.
func (h *History) place(ctx context.Context, t *traces, v *TaskView) error {
	v.State = schemas.StateQueued
	n := len(t.hops)
	if n > 0 && t.hops[n-1].letter == "" && t.row.place == "scheduled" && !t.hops[n-1].ok {
		v.State, v.Due = schemas.StateScheduled, t.row.due
		return nil
	}
	if n > 0 && !t.hops[n-1].ok && t.row.due != nil && t.row.due.After(time.Now()) {
		v.State, v.Due = schemas.StateScheduled, t.row.due // not filed yet
		return nil
	}
	hop, newest := t.lastHop()
	if !newest {
		return nil // not relayed yet, or parked
	}
	queue := v.Queue
	if hop.Topic == h.deps.Names.DLQ(queue) {
		v.State = schemas.StateDead // refused by the relay; the index has not read the letter yet
		return nil
	}
	committed, err := h.deps.Offsets.Committed(ctx, h.deps.Names.WorkerGroup(queue), hop.Topic, hop.Partition)
	if err != nil {
		return &awayError{"Kafka", err}
	}
	if hop.Offset < committed {
		// No offset is committed past a task that is not durable elsewhere (I3):
		// it is no letter, so it is done and Redis forgot, or its retry is on its
		// way and Redis was flushed meanwhile.
		v.State, v.Inferred = schemas.StateCompleted, true
		if t.onTour(v.Epoch) {
			v.State, v.Waits, v.Inferred = schemas.StateWaiting, schemas.WaitUnknownKind, false
		} else if at := t.retryAhead(v.Epoch); at != nil {
			v.State, v.Due = schemas.StateRetrying, at
		}
	}
	return nil
}

// retryAhead is when the retry of the last failed attempt is due, nil if that
// is over or the last event is another.
func (t *traces) retryAhead(epoch int) *time.Time {
	if len(t.events) == 0 {
		return nil
	}
	e := &t.events[len(t.events)-1]
	var data struct {
		NextAt time.Time `json:"next_at"`
	}
	if e.kind != "failed" || e.epoch != epoch || json.Unmarshal(e.data, &data) != nil || time.Since(data.NextAt) > time.Minute {
		return nil
	}
	return &data.NextAt
}

// tourLasts is longer than workers send a record of an unknown kind round.
const tourLasts = time.Hour + 5*time.Minute

// onTour reports whether the task's record goes round the delay topics because
// the worker that met it does not know its kind. Nobody claims it for that.
func (t *traces) onTour(epoch int) bool {
	if len(t.events) == 0 {
		return false
	}
	e := &t.events[len(t.events)-1]
	return e.kind == "waiting" && e.epoch == epoch && e.waits().Reason == schemas.WaitUnknownKind && time.Since(e.at) < tourLasts
}

// waitData is what an event of the type waiting says.
type waitData struct {
	Reason schemas.WaitReason `json:"reason"`
	NextAt time.Time          `json:"next_at"` // breaker: the next probe; zero = not said
}

func (e *eventTrace) waits() (d waitData) {
	if json.Unmarshal(e.data, &d) != nil {
		return waitData{} // of a later version
	}
	return d
}

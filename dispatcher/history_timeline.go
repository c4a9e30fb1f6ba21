package dispatcher

// The timeline of a task: every hop, in order of time.

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Ranks order hops of one instant as they happen.
const (
	rankAccepted = iota
	rankFiled
	rankReplayed
	rankRelayed
	rankAttempt
	rankEvent
	rankDead
	rankCompleted
)

func (t *traces) timeline(v *TaskView) {
	var list []Hop
	if t.row.found {
		list = append(list, Hop{At: t.row.created, What: "accepted", rank: rankAccepted})
		switch {
		case t.row.place == "parked", t.row.place == "held":
			list = append(list, Hop{At: t.row.created, What: t.row.place, Detail: t.row.why, rank: rankFiled})
		case t.row.due != nil && t.row.due.After(t.row.created):
			list = append(list, Hop{At: t.row.created, What: "scheduled", Until: t.row.due, rank: rankFiled})
		}
	}
	for i := range t.hops {
		h := &t.hops[i]
		if h.letter != "" {
			what := "replayed"
			if h.replay == "" {
				what = "released" // by the lift of its key's block
			}
			list = append(list, Hop{At: h.began, What: what, Epoch: h.epoch, Replay: h.replay, Letter: h.letter, rank: rankReplayed})
		}
		if h.ok {
			list = append(list, Hop{At: h.at, What: "relayed", Epoch: h.epoch, Topic: h.hop.Topic, Partition: &h.hop.Partition, Offset: &h.hop.Offset, rank: rankRelayed})
		}
	}
	told := map[string]bool{}
	for i := range t.letters {
		l := &t.letters[i]
		list = append(list, l.attemptHops(told)...)
		list = append(list, Hop{At: l.died, What: "dead", Epoch: l.epoch, Run: l.run, Topic: l.topic, Partition: &l.partition, Offset: &l.offset,
			ErrorClass: l.class, Message: l.message, Letter: l.id, Detail: l.reason, rank: rankDead})
		told[attemptName("dead", l.epoch, 0, 0)] = true
	}
	for i := range t.events {
		if h, ok := t.events[i].hop(told); ok {
			list = append(list, h)
		}
	}
	if v.State == schemas.StateCompleted {
		done := Hop{What: "completed", Epoch: v.Epoch, rank: rankCompleted}
		if v.Inferred {
			done.Detail = "inferred: its record is committed and it left no letter"
		}
		if l := t.lastLetter(); l != nil && l.resolvedBy == "completed" {
			done.At = l.changed
		}
		list = append(list, done)
	}
	relayedBefore(list)
	slices.SortStableFunc(list, func(a, b Hop) int {
		// Clocks differ; a task is accepted first. What has no time came last.
		if (a.rank == rankAccepted) != (b.rank == rankAccepted) {
			return cmp.Compare(a.rank, b.rank)
		}
		if a.At.IsZero() != b.At.IsZero() {
			if a.At.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.rank, b.rank))
	})
	v.Timeline = list
}

// relayedBefore moves the time of a relayed hop back to the first thing that
// happened to its record: the log is written after Kafka's acknowledgement, and
// a worker may be quicker.
func relayedBefore(list []Hop) {
	for i := range list {
		r := &list[i]
		if r.rank != rankRelayed {
			continue
		}
		for j := range list {
			h := &list[j]
			if h.Epoch == r.Epoch && h.rank >= rankAttempt && !h.At.IsZero() && h.At.Before(r.At) {
				r.At = h.At
			}
		}
	}
}

// attemptHops reads the attempts that a letter keeps.
func (l *letterTrace) attemptHops(told map[string]bool) (list []Hop) {
	var attempts []struct {
		N          int       `json:"n"`
		Run        int64     `json:"run"`
		Start      time.Time `json:"start"`
		End        time.Time `json:"end"`
		Worker     string    `json:"worker"`
		ErrorClass string    `json:"error_class"`
		Message    string    `json:"message"`
		Cut        int       `json:"cut"`
	}
	if err := json.Unmarshal(l.attempts, &attempts); err != nil {
		return nil // the letter's own hop is told all the same
	}
	for _, a := range attempts {
		if a.Cut > 0 {
			continue
		}
		h := Hop{At: a.Start, What: "attempt", Epoch: l.epoch, Attempt: a.N, Run: a.Run, Worker: a.Worker,
			ErrorClass: a.ErrorClass, Message: a.Message, rank: rankAttempt}
		if !a.End.IsZero() {
			h.Until = &a.End
			if h.At.IsZero() {
				h.At = a.End
			}
		}
		if h.At.IsZero() {
			h.At = l.died
		}
		list = append(list, h)
		told[attemptName("failed", l.epoch, a.N, a.Run)] = true
	}
	return list
}

// hop is an event's place in the timeline; ok is false if a letter tells it.
func (e *eventTrace) hop(told map[string]bool) (Hop, bool) {
	h := Hop{At: e.at, What: e.kind, Epoch: e.epoch, Attempt: e.attempt, Run: e.run, Worker: e.worker,
		ErrorClass: e.class, Message: e.message, rank: rankEvent}
	switch e.kind {
	case "failed":
		h.What = "attempt"
		if told[attemptName("failed", e.epoch, e.attempt, e.run)] {
			return h, false
		}
	case "dead":
		if told[attemptName("dead", e.epoch, 0, 0)] {
			return h, false
		}
	case "waiting":
		var data struct{ Reason string }
		if err := json.Unmarshal(e.data, &data); err == nil {
			h.Detail = data.Reason
		}
	}
	return h, true
}

func attemptName(what string, epoch, attempt int, run int64) string {
	return what + "/" + strconv.Itoa(epoch) + "/" + strconv.Itoa(attempt) + "/" + strconv.FormatInt(run, 10)
}

package run

// What happened to each task, by its number.

import (
	"sync/atomic"
	"time"
)

// Tally holds, for each task, when it was due, accepted, and begun. Handlers
// write to it at full speed, so it is arrays and nothing else; 28 bytes a task.
type Tally struct {
	began    time.Time
	due      []int64 // ns since began; of the producer that sends the task, until it is accepted
	accepted []int64
	begun    []atomic.Int64 // 0 = not yet
	times    []atomic.Int32 // how often it began

	sent     atomic.Int64
	distinct atomic.Int64 // tasks that began
	repeats  atomic.Int64 // beginnings beyond a task's first
	foreign  atomic.Int64 // payloads that are not ours

	done int64 // when all were completed

	room chan struct{} // tokens of a closed loop; nil = no limit
}

func newTally(tasks, inFlight int) *Tally {
	t := &Tally{
		began: time.Now(),
		due:   make([]int64, tasks), accepted: make([]int64, tasks),
		begun: make([]atomic.Int64, tasks), times: make([]atomic.Int32, tasks),
	}
	if inFlight > 0 {
		t.room = make(chan struct{}, inFlight)
	}
	return t
}

func (t *Tally) now() int64 { return max(1, int64(time.Since(t.began))) }

// Begin notes that a handler has begun with payload.
func (t *Tally) Begin(payload []byte) error {
	now := t.now()
	n, err := number(payload)
	if err != nil || n >= len(t.begun) {
		t.foreign.Add(1)
		return err
	}
	if t.times[n].Add(1) > 1 {
		t.repeats.Add(1)
		return nil
	}
	t.begun[n].Store(now)
	t.distinct.Add(1)
	if t.room != nil {
		<-t.room
	}
	return nil
}

// Progress is where a run stands.
type Progress struct {
	Phase          string
	Tasks          int // in all
	Accepted       int
	Begun          int
	Elapsed        time.Duration
	BegunPerSecond float64 // since the last Progress
}

package worker_test

// What is checked from the ledger, and that the checkers see what they are for.

import (
	"fmt"
	"testing"
	"time"
)

// checked is what came of a history.
type checked struct {
	starts, reruns, again, refused int // again: effects accepted once more, under a higher fence
	violations                     []string
}

// What the test does to the fleet, as notes among the others, so that the
// checks know what can have caused what.
const (
	faultKilled  = "killed"  // SIGKILL to PID
	faultPaused  = "paused"  // SIGSTOP to PID
	faultRemoved = "removed" // PID says that the others called it dead
	faultOther   = "fault"   // Worker says what; it is no cause of a second run
	noteDead     = "dead"    // a dead letter of ID; Worker says why
)

// check holds a history against what was sent:
//
//	lost      a task without an effect
//	dead      a task that became a dead letter: nothing in these tests may die
//	fence     a start whose run is not above every earlier start's of its task:
//	          the downstream could not tell the two apart, or would refuse the newer
//	twice     a second effect under one run, which no fence refuses
//	order     effects of a key out of their order
//	repeated  a second run of a task whose process was not killed, paused or
//	          removed while it may have held it
func check(sent map[string]duty, notes []note) (c checked) {
	bad := func(format string, args ...any) {
		if len(c.violations) < 20 {
			c.violations = append(c.violations, fmt.Sprintf(format, args...))
		}
	}
	runs := map[string]int64{}
	appliedWith := map[string]int64{}
	began := map[string]note{} // the latest start
	last := map[string]int{}   // by key
	why := causesIn(notes)
	for i, n := range notes {
		switch n.What {
		case faultKilled, faultPaused, faultRemoved, faultOther:
			continue
		case noteDead:
			bad("dead: %s: %s", n.ID, n.Worker)
			continue
		}
		if _, ok := sent[n.ID]; !ok {
			bad("phantom: %s was never sent", n.ID)
			continue
		}
		if n.Refused {
			c.refused++ // one that was stopped and resumed comes late
			continue
		}
		if n.What == "began" {
			c.starts++
			if was, second := runs[n.ID]; second {
				c.reruns++
				if n.Run <= was {
					bad("fence: %s began with run %d after run %d", n.ID, n.Run, was)
				}
				if first := began[n.ID]; !why.explain(first, i) {
					bad("repeated: %s began in %s, pid %d (run %d), %v after it began in %s, pid %d (run %d, %s), which nothing had happened to: %v", n.ID,
						n.Worker, n.PID, n.Run, n.At.Sub(first.At).Round(time.Millisecond), first.Worker, first.PID, first.Run, first.At.Format("15:04:05.000"), why.told(i))
				}
			}
			runs[n.ID], began[n.ID] = max(runs[n.ID], n.Run), n
			continue
		}
		if n.Run < runs[n.ID] {
			bad("fence: %s was applied with run %d though run %d had begun", n.ID, n.Run, runs[n.ID])
		}
		was, second := appliedWith[n.ID]
		if second && n.Run == was {
			bad("twice: %s was applied twice with run %d", n.ID, n.Run)
		}
		if second {
			c.again++
		}
		if n.Key != "" && n.N != last[n.Key]+1 && (n.N != last[n.Key] || !second) {
			bad("order: %d of key %s was applied after %d", n.N, n.Key, last[n.Key])
		}
		if n.Key != "" {
			last[n.Key] = n.N
		}
		appliedWith[n.ID] = n.Run
	}
	lost := 0
	for id, d := range sent {
		if _, ok := appliedWith[id]; !ok {
			if lost++; lost <= 5 {
				bad("lost: %s (%+v) has no effect", id, d)
			}
		}
	}
	if lost > 5 {
		bad("lost: %d tasks in all", lost)
	}
	return c
}

// doneWithin is how long after its effect a task may still be without its done
// mark: a fault within that time can repeat it.
const doneWithin = 5 * time.Second

// causes are the faults of a history, by process.
type causes struct {
	notes   []note
	faults  map[int][]int        // pid → indexes of killed, paused, removed
	applied map[effect]time.Time // when the effect of a start came
}

type effect struct {
	id  string
	run int64
}

func causesIn(notes []note) causes {
	c := causes{notes: notes, faults: map[int][]int{}, applied: map[effect]time.Time{}}
	for i, n := range notes {
		switch n.What {
		case faultKilled, faultPaused, faultRemoved:
			c.faults[n.PID] = append(c.faults[n.PID], i)
		case "applied":
			if e := (effect{n.ID, n.Run}); c.applied[e].IsZero() {
				c.applied[e] = n.At
			}
		}
	}
	return c
}

// explain reports whether something that happened to the process of a start lets
// its task run again, in note i.
func (c *causes) explain(start note, i int) bool {
	end, ended := c.applied[effect{start.ID, start.Run}]
	for _, f := range c.faults[start.PID] {
		fault := c.notes[f]
		if ended && fault.At.Sub(end) > doneWithin && fault.What != faultRemoved {
			continue // it was long done
		}
		switch {
		case fault.What == faultRemoved && fault.At.After(start.At), // known to it only afterwards
			fault.What == faultKilled && f < i, // also what it sent as its last and arrived late
			fault.What == faultPaused && f < i && fault.At.Add(time.Second).After(start.At):
			return true
		}
	}
	return false
}

// told lists the faults up to note i, for a message.
func (c *causes) told(i int) (list []string) {
	for pid, at := range c.faults {
		for _, f := range at {
			if f < i {
				list = append(list, fmt.Sprintf("%s %d at %s", c.notes[f].What, pid, c.notes[f].At.Format("15:04:05.000")))
			}
		}
	}
	return list
}

func TestTheCheckersSeeWhatTheyAreFor(t *testing.T) {
	one, two := duty{N: 1, Key: "k"}, duty{N: 2, Key: "k"}
	sent := map[string]duty{"a": one, "b": two}
	at := time.Unix(1000, 0)
	of := func(what string, pid int) func(string, int64, duty) note {
		return func(id string, run int64, d duty) note {
			at = at.Add(time.Millisecond)
			return note{At: at, What: what, PID: pid, ID: id, Run: run, duty: d}
		}
	}
	began, did, elsewhere := of("began", 7), of("applied", 7), of("began", 8)
	killed := func(pid int) note { return of(faultKilled, pid)("", 0, duty{}) }
	dead := of(noteDead, 0)("a", 0, one)
	good := []note{began("a", 1, one), killed(7), elsewhere("a", 2, one), did("a", 2, one), began("b", 1, two), did("b", 1, two)}
	for name, c := range map[string]struct {
		notes []note
		want  int
	}{
		"good":                             {good, 0},
		"lost":                             {good[:5], 1},
		"dead":                             {append([]note{dead}, good...), 1},
		"phantom":                          {append([]note{began("x", 1, one)}, good...), 1},
		"the same run twice":               {[]note{began("a", 1, one), killed(7), began("a", 1, one), did("a", 1, one), began("b", 1, two), did("b", 1, two)}, 1},
		"a lower run":                      {[]note{began("a", 2, one), killed(7), began("a", 1, one), did("a", 2, one), began("b", 1, two), did("b", 1, two)}, 1},
		"an older run's effect":            {[]note{began("a", 1, one), killed(7), began("a", 2, one), did("a", 1, one), began("b", 1, two), did("b", 1, two)}, 1},
		"an effect twice":                  {append(good[:4:4], did("a", 2, one), began("b", 1, two), did("b", 1, two)), 1},
		"the second of a key":              {[]note{began("b", 1, two), did("b", 1, two), began("a", 1, one), did("a", 1, one)}, 2},
		"the first of a key late":          {append(good[:6:6], killed(8), began("a", 3, one), did("a", 3, one)), 1},
		"repeated, by whom nobody touched": {append([]note{began("a", 1, one)}, good[2:]...), 1},
		"repeated, another was killed":     {append([]note{began("a", 1, one), killed(9)}, good[2:]...), 1},
		"repeated, killed only later":      {append(append([]note{began("a", 1, one)}, good[2:]...), killed(7)), 1},
		"repeated, it was long done": {[]note{began("b", 1, duty{}), did("b", 1, duty{}), began("a", 1, one), did("a", 1, one),
			{At: at.Add(time.Minute), What: faultKilled, PID: 7}, {At: at.Add(time.Minute), What: "began", PID: 8, ID: "b", Run: 2}}, 1},
		"repeated, because it was removed": {append(append([]note{began("a", 1, one)}, good[2:]...), of(faultRemoved, 7)("", 0, duty{})), 0},
	} {
		if got := check(sent, c.notes).violations; len(got) != c.want {
			t.Errorf("%s: %q, want %d violations", name, got, c.want)
		}
	}
}

package worker_test

// What is checked from the ledger, and that the checkers see what they are for.

import (
	"fmt"
	"testing"
)

// checked is what came of a history.
type checked struct {
	starts, reruns, refused int
	violations              []string
}

// check holds a history against what was sent:
//
//	lost      a task without an effect
//	fence     a start whose run is not above every earlier start's of its task:
//	          the downstream could not tell the two apart, or would refuse the newer
//	order     effects of a key out of their order
func check(sent map[string]duty, notes []note) (c checked) {
	bad := func(format string, args ...any) {
		if len(c.violations) < 20 {
			c.violations = append(c.violations, fmt.Sprintf(format, args...))
		}
	}
	runs := map[string]int64{}
	applied := map[string]bool{}
	last := map[string]int{} // by key
	for _, n := range notes {
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
			if was, again := runs[n.ID]; again {
				c.reruns++
				if n.Run <= was {
					bad("fence: %s began with run %d after run %d", n.ID, n.Run, was)
				}
			}
			runs[n.ID] = max(runs[n.ID], n.Run)
			continue
		}
		if n.Run < runs[n.ID] {
			bad("fence: %s was applied with run %d though run %d had begun", n.ID, n.Run, runs[n.ID])
		}
		if n.Key != "" && n.N != last[n.Key]+1 && (n.N != last[n.Key] || !applied[n.ID]) {
			bad("order: %d of key %s was applied after %d", n.N, n.Key, last[n.Key])
		}
		if n.Key != "" {
			last[n.Key] = n.N
		}
		applied[n.ID] = true
	}
	lost := 0
	for id, d := range sent {
		if !applied[id] {
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

func TestTheCheckersSeeWhatTheyAreFor(t *testing.T) {
	one, two := duty{N: 1, Key: "k"}, duty{N: 2, Key: "k"}
	sent := map[string]duty{"a": one, "b": two}
	began := func(id string, run int64, d duty) note { return note{What: "began", ID: id, Run: run, duty: d} }
	did := func(id string, run int64, d duty) note { return note{What: "applied", ID: id, Run: run, duty: d} }
	good := []note{began("a", 1, one), began("a", 2, one), did("a", 2, one), began("b", 1, two), did("b", 1, two)}
	for name, c := range map[string]struct {
		notes []note
		want  int
	}{
		"good":                    {good, 0},
		"lost":                    {good[:4], 1},
		"phantom":                 {append([]note{began("x", 1, one)}, good...), 1},
		"the same run twice":      {[]note{began("a", 1, one), began("a", 1, one), did("a", 1, one), began("b", 1, two), did("b", 1, two)}, 1},
		"a lower run":             {[]note{began("a", 2, one), began("a", 1, one), did("a", 2, one), began("b", 1, two), did("b", 1, two)}, 1},
		"an older run's effect":   {[]note{began("a", 1, one), began("a", 2, one), did("a", 1, one), began("b", 1, two), did("b", 1, two)}, 1},
		"the second of a key":     {[]note{began("b", 1, two), did("b", 1, two), began("a", 1, one), did("a", 1, one)}, 2},
		"the first of a key late": {append(good[:5:5], began("a", 3, one), did("a", 3, one)), 1},
	} {
		if got := check(sent, c.notes).violations; len(got) != c.want {
			t.Errorf("%s: %q, want %d violations", name, got, c.want)
		}
	}
}

package worker

import (
	"testing"
	"time"
)

// TestMoreThanALookTakesHaveTurns: each running task is looked up before any is
// looked up again.
func TestMoreThanALookTakesHaveTurns(t *testing.T) {
	const running = 2*cancelMost + cancelMost/2
	p := &pipeline{looks: 1}
	for range running {
		d := &delivery{}
		p.claimed.add(d)
		d.try = &tryOut{d: d}
	}
	for round := range 2 {
		seen := map[*tryOut]bool{}
		for range 3 {
			for _, a := range p.toLookUp(time.Now()) {
				if seen[a] {
					t.Fatal("one was looked up twice before others")
				}
				seen[a] = true
			}
		}
		if len(seen) != running {
			t.Errorf("round %d: %d of %d were looked up in three looks", round, len(seen), running)
		}
	}
}

package worker

import (
	"testing"
	"time"
)

// A blip long after another is not what has been coming ever since.
func TestASpellIsWhatComesAgainAndAgain(t *testing.T) {
	const d = 5 * time.Second
	var s spell
	at := time.Unix(1e9, 0)
	for i, step := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {time.Second, false}, {d - time.Second, false}, {time.Second, true}, {time.Hour, false}, {d, false}, {time.Second, true}} {
		at = at.Add(step.after)
		if got := s.longer(d, at); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

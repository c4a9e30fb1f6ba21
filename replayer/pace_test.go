package replayer

import (
	"math/rand/v2"
	"testing"
	"time"
)

// What a rate allows, no more and no less, on a clock of its own: slices take time, looks
// come late, and now and then the machine stands still for a while that can be made up for.
func TestARateIsKeptFromBothSides(t *testing.T) {
	for _, rate := range []float64{7, 60, 1000, 12_000} {
		rng := rand.New(rand.NewPCG(1, uint64(rate)))
		j := job{state: Running, letters: 1 << 40, spec: Spec{Rate: rate}}
		const long = 200 * time.Second
		var now, counted time.Duration
		var most float64 // ahead of the rate
		for now < long {
			j.tokens = saveUp(j.tokens, rate, now-counted)
			counted = now
			v := decide(&j, 4000)
			if v.move == 0 {
				now += v.pause + time.Duration(rng.Int64N(int64(5*time.Millisecond)))
				continue
			}
			j.replayed += int64(v.move)
			j.completed = j.replayed
			j.tokens -= float64(v.move)
			most = max(most, float64(j.replayed)-rate*now.Seconds())
			now += time.Duration(rng.Int64N(int64(20 * time.Millisecond)))
			if rng.IntN(100) == 0 {
				now += 400 * time.Millisecond
			}
		}
		if share := float64(j.replayed) / (rate * now.Seconds()); share < 0.95 || share > 1.05 {
			t.Errorf("at %.0f a second: %.1f %% of what the rate allows went", rate, 100*share)
		}
		if most > rate/2+1 {
			t.Errorf("at %.0f a second: %.0f letters ahead of the rate", rate, most)
		}
	}
}

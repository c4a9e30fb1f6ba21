package kafka

import "time"

// Tier is one delay topic. A record stays in it until its delay has passed
// since it was appended, or it is due, whichever is first; so the records of a
// partition leave in the order they came, and none holds up another.
type Tier struct {
	Name  string
	Delay time.Duration
}

// Tiers are the delay topics, shortest first. A delay below the first tier
// waits in the worker; a longer one takes the longest tier that fits and hops
// on from there.
var Tiers = []Tier{
	{"5s", 5 * time.Second},
	{"30s", 30 * time.Second},
	{"2m", 2 * time.Minute},
	{"10m", 10 * time.Minute},
	{"1h", time.Hour},
}

// TierFor returns the longest tier whose delay is at most d; ok is false when d
// is below the first tier.
func TierFor(d time.Duration) (tier Tier, ok bool) {
	for _, t := range Tiers {
		if d < t.Delay {
			break
		}
		tier, ok = t, true
	}
	return tier, ok
}

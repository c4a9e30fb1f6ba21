package replayer

// When a replay goes on, how many letters may move now, and when it stops
// itself. Decided from the job's row alone.

import (
	"fmt"
	"time"
)

// verdict is what a turn does with a job.
type verdict struct {
	to    State  // another state; "" = stays
	why   string // of a stop
	move  int    // at most so many letters now
	pause time.Duration
}

// How often a job that waits for outcomes is looked at.
const outcomePoll = 200 * time.Millisecond

// decide is asked before every slice of a job that moves. slice is the most
// that one may hold.
func decide(j *job, slice int) verdict {
	if why := broken(j); why != "" {
		return verdict{to: Stopped, why: why}
	}
	switch j.state {
	case InCanary:
		if v := canary(j, slice); v.to != "" || v.move == 0 {
			return v
		}
		slice = min(slice, j.spec.Canary.Letters-int(j.replayed))
	case Ramping:
		if j.ramped >= time.Duration(j.spec.Ramp) {
			return verdict{to: Running}
		}
	}
	rate := j.rate()
	if rate <= 0 {
		return verdict{move: slice}
	}
	// Letters go in parcels of about 50 ms, so that one statement moves many.
	parcel := max(1, min(slice, int(rate/20)))
	if j.tokens < float64(parcel) && (j.left() >= int64(parcel) || j.tokens < 1) {
		return verdict{pause: time.Duration((float64(parcel) - j.tokens) / rate * float64(time.Second))}
	}
	return verdict{move: max(1, min(slice, int(j.tokens)))}
}

// canary holds a job until its first letters have done well.
func canary(j *job, slice int) verdict {
	c := &j.spec.Canary
	bad := j.died + j.other
	switch {
	case bad > atMost(c.Letters, c.Success):
		return verdict{to: Stopped, why: fmt.Sprintf("canary: %d of %d did not complete, %d of them died of the same cause; %.0f %% must complete", bad, c.Letters, j.same, 100*c.Success)}
	case j.replayed < int64(c.Letters), j.left() == 0:
		return verdict{move: slice}
	case j.underWay() <= 0:
		if j.spec.Rate > 0 && j.spec.Ramp > 0 {
			return verdict{to: Ramping}
		}
		return verdict{to: Running}
	case j.canary > time.Duration(c.Patience):
		return verdict{to: Stopped, why: fmt.Sprintf("canary: %d of %d have no outcome after %s: do workers run, is its queue paused?", j.underWay(), c.Letters, c.Patience)}
	}
	return verdict{pause: outcomePoll}
}

// broken says which stop rule holds, "" for none.
func broken(j *job) string {
	s := &j.spec.Stop
	if s.Off {
		return ""
	}
	known := j.completed + j.died
	switch {
	case known >= int64(s.Outcomes) && share(j.died, known) > s.ErrorRate:
		return fmt.Sprintf("error rate: %d of %d outcomes died again, more than %.0f %%", j.died, known, 100*s.ErrorRate)
	case s.SameFingerprint > 0 && j.same >= int64(s.SameFingerprint):
		return fmt.Sprintf("same fingerprint: %d died again of the cause that they had", j.same)
	case s.Lag > 0 && j.underWay() >= int64(s.Lag):
		return fmt.Sprintf("lag: %d were replayed and have no outcome yet", j.underWay())
	}
	return ""
}

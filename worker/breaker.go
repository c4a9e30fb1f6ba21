package worker

// A breaker a kind: opened by answers that say that its endpoint is wrong or
// being deployed, not the task. Kinds share none, even at one URL: it may have
// routes for some and 404 for others, and each signs with a secret of its own.

import "time"

const (
	breakerFirst = time.Second
	breakerMost  = time.Minute
)

// breaker is open until a time, then lets single probes through, and closes at
// the first answer that says anything else. The nil breaker is always closed.
// It belongs to the pipeline's loop.
type breaker struct {
	endpoint string
	until    time.Time // zero = closed
	pause    time.Duration
	probing  bool
}

// allow reports whether a task may start now; when the breaker is open and its
// time has come, the one task that it lets through is the probe.
func (b *breaker) allow(now time.Time) bool {
	if b == nil || b.until.IsZero() {
		return true
	}
	if b.probing || now.Before(b.until) {
		return false
	}
	b.probing = true
	return true
}

// probeAt is when the next probe may start; zero = closed, or a probe is out.
func (b *breaker) probeAt(now time.Time) time.Time {
	if b == nil || b.until.IsZero() || b.probing || b.until.Before(now) {
		return time.Time{}
	}
	return b.until
}

func (b *breaker) open() bool { return b != nil && !b.until.IsZero() }

// unprobe takes back a probe that did not start: the next task is the probe.
func (d *delivery) unprobe() {
	if d.probe {
		d.kind.breaker.probing, d.probe = false, false
	}
}

// report tells how an attempt ended, and whether it was the probe; it says
// whether the breaker changed. Only the probe's end makes room for another.
func (b *breaker) report(misconfigured, probe bool, now time.Time) (changed bool) {
	if b == nil {
		return false
	}
	if !misconfigured {
		changed = !b.until.IsZero()
		b.until, b.pause, b.probing = time.Time{}, 0, false
		return changed
	}
	b.probing = b.probing && !probe
	if now.Before(b.until) {
		return false // one of those that ran when it opened
	}
	changed = b.until.IsZero()
	b.pause = min(max(2*b.pause, breakerFirst), breakerMost)
	b.until = now.Add(b.pause)
	return changed
}

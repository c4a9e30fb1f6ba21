package worker

// Isolation: a task whose owner died twice while it ran is a suspect. It runs
// alone on its worker, so that a third crash says whose fault it was, and takes
// nobody with it. Only such crashes condemn it; the claims count them.

import (
	"fmt"
	"time"
)

// isolatePause is the least time for everything else between two isolations.
// It is also at least as long as the last one took: suspects have at most half
// of a worker's time, however many there are.
const isolatePause = time.Second

// isolateWait is how long nothing is started for a suspect while others still
// run. If one of them runs for longer, the others go on for as long, and it is
// tried again.
const isolateWait = 30 * time.Second

// isolation is what the loop knows of its suspects.
type isolation struct {
	suspects []*delivery // wait until nothing else runs
	alone    *delivery   // the one that is asked about, runs, or is being settled
	began    time.Time   // when the others stopped being started for it
	next     time.Time   // no isolation before
	kept     time.Time   // since when abandoned handlers keep suspects waiting
}

// suspect lets a delivery wait until it can run alone.
func (p *pipeline) suspect(d *delivery, crashes int) {
	p.letGo(d)
	if d.asg.draining {
		p.release(d, time.Now())
		return
	}
	if d.shared() && d.parked.IsZero() {
		d.parked = time.Now() // many that wait here one after the other: see setAside
	}
	p.log.Warn("a task during whose runs its workers died waits to run alone",
		"task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue, "attempt", d.attempt, "crashes", crashes)
	p.suspects = append(p.suspects, d)
}

// isolating reports whether everything else has to wait, and asks for the first
// suspect once nothing else runs.
func (p *pipeline) isolating(now time.Time) bool {
	if p.alone != nil {
		return true
	}
	if p.besideStrays(now) {
		return p.stopping
	}
	if len(p.suspects) == 0 || now.Before(p.next) {
		return false
	}
	if p.began.IsZero() {
		p.began = now
	}
	if p.asking || len(p.claimed.list) > 0 || now.Before(p.redisOff) {
		if now.Sub(p.began) < isolateWait {
			return true
		}
		p.next, p.began = now.Add(isolateWait), time.Time{}
		p.log.Warn("a suspect waits on: others run for long", "task_id", p.suspects[0].task.ID, "running", p.running)
		return false
	}
	d := p.suspects[0]
	p.suspects = append(p.suspects[:0], p.suspects[1:]...)
	p.alone, d.alone = d, true
	p.met.isolated.WithLabelValues(d.kind.Name).Inc()
	p.slots--
	p.ready.take(d.kind)
	p.ask([]*delivery{d})
	return true
}

// besideStrays reports whether suspects wait because handlers that were abandoned
// still run: until those return nothing is alone here, and the others go on. One
// that never returns must not keep them for ever: a new process has no strays.
func (p *pipeline) besideStrays(now time.Time) bool {
	if len(p.suspects) == 0 || p.strays.total == 0 {
		p.kept = time.Time{}
		return false
	}
	p.began = time.Time{}
	if p.kept.IsZero() {
		p.kept = now
	}
	if now.Sub(p.kept) >= p.cfg.HeldAlarm {
		d := p.suspects[0]
		p.wearOut(fmt.Errorf("task %s of %s, during whose runs its workers died, waits to run alone, and %d handlers that were abandoned still run (%s): %w",
			d.task.ID, d.task.Kind, p.strays.total, &p.strays, errDeaf))
	}
	return true
}

// isolated ends the isolation when d was alone.
func (p *pipeline) isolated(d *delivery, now time.Time) {
	if p.alone != d {
		return
	}
	p.alone, d.alone = nil, false
	p.next = now.Add(max(isolatePause, now.Sub(p.began)))
	p.began = time.Time{}
}

// dropSuspects takes out all that match.
func (p *pipeline) dropSuspects(match func(*delivery) bool) (out []*delivery) {
	kept := p.suspects[:0]
	for _, d := range p.suspects {
		if match(d) {
			out = append(out, d)
		} else {
			kept = append(kept, d)
		}
	}
	clear(p.suspects[len(kept):])
	p.suspects = kept
	if len(kept) == 0 && p.alone == nil {
		p.began = time.Time{}
	}
	return out
}

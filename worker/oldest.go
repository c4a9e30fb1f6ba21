package worker

// The head-of-line detector: which task keeps a partition's low watermark where
// it is. It stops nothing else (the commit's metadata remembers what is complete
// beyond it), but what it holds is read again by every new owner.

import "time"

const (
	// oldestEvery is how often the oldest record of each partition is looked at.
	oldestEvery = time.Second
	// oldestUnfound is how long one that is to be named is looked for: between two
	// stages a delivery is nowhere for a moment.
	oldestUnfound = 10 * oldestEvery
)

// oldest is what the loop knows of a partition's oldest record.
type oldest struct {
	offset int64
	since  time.Time // when it was first seen as the oldest; zero = there is none
	said   bool
}

// look notes a partition's oldest record and returns for how long it has been.
func (o *oldest) look(offset int64, found bool, now time.Time) time.Duration {
	switch {
	case !found:
		*o = oldest{}
	case o.since.IsZero() || o.offset != offset:
		*o = oldest{offset: offset, since: now}
	default:
		return now.Sub(o.since)
	}
	return 0
}

// stepOldest looks at every partition, and names each task that holds one for
// longer than the bound, once.
func (p *pipeline) stepOldest(now time.Time) {
	if now.Before(p.nextOldest) {
		return
	}
	p.nextOldest = now.Add(oldestEvery)
	for _, in := range p.intakes {
		var longest time.Duration
		in.mu.Lock()
		for _, a := range in.assigned {
			if a.tracker == nil {
				continue
			}
			offset, found := a.tracker.Oldest()
			held := a.oldest.look(offset, found, now)
			longest = max(longest, held)
			if held >= p.cfg.HeldAlarm && !a.oldest.said {
				a.oldest.said = p.sayOldest(a, held)
			}
		}
		in.mu.Unlock()
		if p.blocks != nil && in.share == nil {
			p.met.blocked.WithLabelValues(in.queue).Set(float64(p.blocks.Count(in.queue)))
		}
		p.met.held.WithLabelValues(in.queue).Set(longest.Seconds())
	}
}

// sayOldest reports whether it said anything: if not, it is to be called again.
func (p *pipeline) sayOldest(a *assignment, held time.Duration) bool {
	d, where := p.find(a, a.oldest.offset)
	if d == nil && held < p.cfg.HeldAlarm+oldestUnfound {
		return false
	}
	if d == nil {
		p.log.Warn("a record holds its partition's low watermark, and this worker does not know where it stands",
			"queue", a.intake.queue, "partition", a.partition, "offset", a.oldest.offset, "held", held.Round(time.Second))
		return true
	}
	p.log.Warn("a task holds its partition's low watermark: others go on, but restarts read from here",
		"task_id", d.task.ID, "kind", d.task.Kind, "queue", a.intake.queue, "attempt", d.attempt, "run", d.run,
		"partition", a.partition, "offset", a.oldest.offset, "where", where, "held", held.Round(time.Second), "err", d.why.Message)
	return true
}

// find looks for a record's delivery, wherever it stands. It looks at everything,
// so it is for alarms only.
func (p *pipeline) find(a *assignment, offset int64) (*delivery, string) {
	is := func(d *delivery) bool { return d.asg == a && d.rec.Offset == offset }
	for _, d := range p.claimed.list {
		if is(d) {
			if d.try == nil {
				return d, "its outcome is being written to Redis"
			}
			return d, "it runs"
		}
	}
	for d, what := range p.away {
		if is(d) {
			return d, what
		}
	}
	for _, in := range []struct {
		list []*delivery
		what string
	}{
		{p.asked, "Redis is asked whether it may run"},
		{p.suspects, "it waits to run alone"},
		{p.doubts, "its reconcile hook is to be asked"},
		{a.unready, "its partition's blocks are being read"},
	} {
		for _, d := range in.list {
			if is(d) {
				return d, in.what
			}
		}
	}
	for _, d := range p.waiting {
		if is(d) {
			return d, "it waits until " + d.due.UTC().Format(time.RFC3339)
		}
	}
	for _, k := range p.ready.kinds {
		for _, d := range k.ready {
			if is(d) && k.breaker.open() {
				return d, "its endpoint's breaker is open"
			}
			if is(d) {
				return d, "it waits for a slot"
			}
		}
	}
	for _, line := range p.lines {
		for _, d := range line.queue {
			if is(d) {
				return d, "another task of its key goes first"
			}
		}
	}
	return nil, ""
}

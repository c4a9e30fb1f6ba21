package worker

// Records of a shared queue in this worker's hands: kept by renewing their locks,
// produced once more where keeping them would lose them or hold up others.

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

const (
	// renewMost is the most time between two renewals: well under the shortest
	// lock that Kafka allows (15 s), and under the time after which an idle
	// connection, with which all locks of this worker end, is closed.
	renewMost = 4 * time.Second
	// asideEvery is how often what waits is looked at, and asideAfter how long a
	// record waits for another owner's run before it makes room.
	asideEvery = time.Second
	asideAfter = 10 * time.Second
)

// takeShared begins the care for a record.
func (p *pipeline) takeShared(asg *assignment, r *kgo.Record) {
	if asg.draining {
		asg.intake.gate.release(recordSize(r))
		r.Ack(kgo.AckRelease)
		return
	}
	p.admitNew(asg, r)
}

// stepShared renews the locks of what is in hand, and lets go of what waits for
// something that may take long.
func (p *pipeline) stepShared(now time.Time) {
	for _, in := range p.intakes {
		s := in.share
		if s == nil {
			continue
		}
		p.met.shareLocked.WithLabelValues(in.queue).Set(float64(len(s.held)))
		if len(s.held) == 0 {
			continue
		}
		if !now.Before(s.renew) {
			s.renew = now.Add(s.renewEvery())
			for d := range s.held {
				d.rec.Ack(kgo.AckRenew)
			}
		}
		if !now.Before(s.aside) {
			s.aside = now.Add(asideEvery)
			p.setAside(in, now)
		}
	}
}

// renewEvery leaves three renewals to a lock.
func (s *shareGroup) renewEvery() time.Duration {
	if lock := time.Duration(s.lock.Load()); lock > 0 {
		return min(renewMost, lock/4)
	}
	return renewMost
}

// nextShared is when stepShared has something to do; zero = nothing is in hand.
func (p *pipeline) nextShared() (t time.Time) {
	for _, in := range p.intakes {
		s := in.share
		if s == nil || len(s.held) == 0 {
			continue
		}
		for _, due := range []time.Time{s.aside, s.renew} {
			if t.IsZero() || due.Before(t) {
				t = due
			}
		}
	}
	return t
}

// setAside sends on what cannot start for now: a worker holds few records of a
// shared queue, and those of one kind must not be all of them. Of each kind the
// first stays, to be tried when its breaker or its limit allows.
func (p *pipeline) setAside(in *intake, now time.Time) {
	var out []*delivery
	for _, k := range p.ready.kinds {
		if len(k.ready) < 2 || k.Queue != in.queue || !k.breaker.open() && !k.own.full() && !k.dependency.full() {
			continue
		}
		first := k.ready[0]
		out = append(out, p.ready.removeOf(k, func(d *delivery) bool { return d != first && d.shared() && d.condemn == "" })...)
	}
	for _, d := range out {
		p.met.shareAside.WithLabelValues(in.queue).Inc()
		p.copyOf(d, p.deps.Names.Retry(kafka.Tiers[0].Name), now.Add(kafka.Tiers[0].Delay))
	}
	// What another owner runs makes room at the group's start, which it holds back;
	// of many suspects, each of which has to run alone, others get their part.
	long := func(d *delivery) bool {
		return d.asg.intake == in && !d.parked.IsZero() && now.Sub(d.parked) >= asideAfter
	}
	if len(p.suspects) > 1 {
		next := p.suspects[0]
		for _, d := range p.dropSuspects(func(d *delivery) bool { return d != next && long(d) }) {
			p.met.shareAside.WithLabelValues(in.queue).Inc()
			p.copyOf(d, p.deps.Names.Tasks(in.queue), d.task.Due)
		}
	}
	for _, d := range p.waiting.remove(long) {
		p.met.shareAside.WithLabelValues(in.queue).Inc()
		p.copyOf(d, p.deps.Names.Tasks(in.queue), now.Add(asideAfter))
	}
}

// produceAgain puts a record that Kafka gave out often onto its queue once more:
// one that is given out too often is dropped without a word. It reports whether
// it did.
func (p *pipeline) produceAgain(d *delivery) bool {
	if !d.shared() || d.rec.DeliveryCount() < d.asg.intake.share.often {
		return false
	}
	p.met.shareCopies.WithLabelValues(d.task.Queue).Inc()
	p.copyOf(d, p.deps.Names.Tasks(d.task.Queue), d.task.Due)
	return true
}

// copyOf produces a record like d's, which nobody has asked about, then accepts
// that one. It asks for no claim: whatever stands, the new record is as good as
// the old one.
func (p *pipeline) copyOf(d *delivery, topic string, due time.Time) {
	p.hold(d)
	p.produceOnto(d, topic, due, d.timer)
}

// produceOnto produces a record of d's attempt onto topic, then accepts d's; d is held. timer: it
// sees after work elsewhere.
func (p *pipeline) produceOnto(d *delivery, topic string, due time.Time, timer bool) {
	t := d.task
	t.Attempt, t.Run, t.Due = max(d.attempt, t.Attempt), max(d.run, t.Run), due
	headers := make([]kgo.RecordHeader, 0, 20)
	if topic == p.deps.Names.Tasks(t.Queue) {
		headers = schemas.AppendRecordHeaders(headers, &t)
	} else {
		headers = schemas.AppendRetryHeaders(headers, &t)
	}
	if timer {
		headers = append(headers, timerHeader)
	}
	for _, h := range d.rec.Headers {
		if h.Key == headerUnknownSince {
			headers = append(headers, h)
		}
	}
	d.hop = []*kgo.Record{{Topic: topic, Key: d.rec.Key, Value: d.rec.Value, Headers: headers}}
	p.produce(d)
}

// lend lets a record of a shared queue that waits here take no slot's room.
func (p *pipeline) lend(d *delivery) {
	if d.shared() && !d.lent {
		d.lent = d.asg.intake.gate.lend(p.cfg.MaxHeld)
	}
}

// takeBack ends it.
func (p *pipeline) takeBack(d *delivery) {
	if d.lent {
		d.lent = false
		d.asg.intake.gate.takeBack()
	}
}

package worker

// The pipeline: what happens to a record, stage by stage.

import (
	"runtime"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// stages are all that happens to a record, in order. The loop calls each step
// in turn; a step never blocks: it takes what has arrived for its stage, moves
// it on, and leaves waiting for Kafka, Redis and handlers to goroutines that
// put their answers into an inbox.
func (p *pipeline) stages() []stage {
	return []stage{
		{"fetch", p.stepFetch},     // records that Kafka delivered → the tracker
		{"admit", p.stepAdmit},     // decoded, due, in their key's turn → ready
		{"claim", p.stepClaim},     // ready and a free slot → may it run?
		{"execute", p.stepExecute}, // granted → handler or endpoint
		{"cancel", p.stepCancel},   // asked to end while it runs
		{"outcome", p.stepOutcome}, // result → Redis, then the Kafka hop, then the ack
		{"commit", p.stepCommit},   // acknowledged → the partition's offset
		{"shared", p.stepShared},   // in hand and not a partition's → its lock renewed
	}
}

type stage struct {
	name string
	step func(now time.Time)
}

// slowStep is how long a step may take before the log says so: it must not block.
const slowStep = time.Second

// pipeline owns every delivery. All its fields without an inbox belong to the
// loop's goroutine.
type pipeline struct {
	*Worker
	wake chan struct{}

	arrived    inbox[arrival]      // fetch
	ready      readyQueue          // admit
	waiting    waitingHeap         // admit: due later
	lines      map[string]*keyLine // admit: order: key
	asks       int                 // lines that stand at an ask
	answers    inbox[claimAnswer]  // claim
	asking     bool
	asked      []*delivery // about which
	redisPause time.Duration
	redisOff   time.Time // claim: nothing is asked before
	granted    []*delivery
	claimed    holders // execute: what holds a claim R
	running    int
	finished   inbox[*tryOut]
	toSettle   inbox[settlement] // outcome
	settled    inbox[settlement]
	hopped     inbox[hopResult]
	cancelled  inbox[*tryOut]
	orders     inbox[func(time.Time)] // from revokes, stops and re-assertions

	isolation
	consults
	strays strays

	slots      int // free
	busy       int // deliveries between claim and last word
	stopping   bool
	idle       chan struct{} // closed when stopping and nothing is busy
	patrol     time.Time     // next look at running attempts
	nextCommit time.Time     // zero = nothing to commit
	nextCancel time.Time     // next look at whether running tasks are cancelled
	looks      uint64        // rounds of such looks, from one: in each, every running task has its turn
	nextOldest time.Time     // next look at who holds the low watermarks
	nextRoom   time.Time     // next look at lines that stand at an ask
	recent     []doneMark    // completed lately, for a Redis that is lost

	away map[*delivery]string // held, and in none of the above: what it waits for, for alarms
}

// doneMark is small: a worker keeps many.
type doneMark struct {
	owner  string
	taskID string
	epoch  int
	run    int64
	at     int64 // Unix nanoseconds
}

// loop runs the stages until stop is closed.
func (p *pipeline) loop(stop <-chan struct{}) {
	stages := p.stages()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		for _, order := range p.orders.take() {
			order(now)
		}
		began := time.Now()
		for _, s := range stages {
			s.step(now)
			ended := time.Now()
			if took := ended.Sub(began); took > slowStep {
				p.log.Warn("a stage held up the pipeline", "stage", s.name, "took", took.Round(time.Millisecond))
			}
			began = ended
		}
		p.stepOldest(now)
		p.stepRoom(now)
		if p.stopping && p.busy == 0 && p.idle != nil {
			close(p.idle)
			p.idle = nil
		}
		p.met.running.Set(float64(p.running))
		p.met.parked.Set(float64(len(p.waiting)))
		timer.Reset(p.nextTimer(now))
		select {
		case <-p.wake:
			// Others are about to put into inboxes, too: a turn for all of them costs
			// as much as one for each.
			runtime.Gosched()
		case <-timer.C:
		case <-stop:
			return
		}
	}
}

// nextTimer is how long the loop may sleep if nothing arrives.
func (p *pipeline) nextTimer(now time.Time) time.Duration {
	next := now.Add(time.Minute)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if len(p.waiting) > 0 && !p.stopping {
		earlier(p.waiting[0].due)
	}
	if p.running > 0 {
		earlier(p.patrol)
		earlier(p.nextCancel)
	}
	if p.busy > 0 || len(p.waiting) > 0 || p.ready.size > 0 {
		earlier(p.nextOldest)
	}
	if p.asks > 0 && !p.stopping {
		earlier(p.nextRoom)
	}
	if !p.kept.IsZero() && !p.stopping {
		earlier(p.kept.Add(p.cfg.HeldAlarm))
	}
	earlier(p.nextCommit)
	earlier(p.nextShared())
	if !p.asking && p.slots > 0 && !p.stopping {
		if p.redisOff.After(now) && (p.ready.size > 0 || len(p.suspects) > 0) {
			earlier(p.redisOff)
		}
		earlier(p.ready.nextProbe(now))
		if len(p.suspects) > 0 && p.next.After(now) {
			earlier(p.next)
		}
	}
	return max(next.Sub(now), 0)
}

// hold and letGo count what stands between its claim and its last word.
func (p *pipeline) hold(d *delivery) {
	p.busy++
	d.asg.busy++
}

func (p *pipeline) letGo(d *delivery) {
	p.busy--
	d.asg.busy--
	delete(p.away, d)
	if p.alone == d {
		p.isolated(d, time.Now())
	}
	if d.asg.draining && d.asg.busy == 0 && d.asg.drained != nil {
		close(d.asg.drained)
		d.asg.drained = nil
	}
}

// freeSlot gives back the slot of a delivery that does not run, or no longer.
func (p *pipeline) freeSlot(d *delivery) {
	p.slots++
	p.ready.give(d.kind)
}

// release ends the worker's care for a delivery: its memory and its key's turn
// go to the next.
func (p *pipeline) release(d *delivery, now time.Time) {
	p.takeBack(d)
	if d.shared() {
		delete(d.asg.intake.share.held, d)
		d.rec.Ack(kgo.AckRelease) // unless it was accepted: back to the others
	}
	d.asg.intake.gate.release(d.size)
	if next := p.leaveLine(d); next != nil {
		p.enter(next, now)
	}
}

// drain stops everything of the assignments that has not started; the channels
// close when what has started said its last word.
func (p *pipeline) drain(asgs []*assignment, now time.Time) {
	gone := func(d *delivery) bool { return d.asg.draining }
	for _, a := range asgs {
		a.draining = true
	}
	dropped := p.ready.remove(gone)
	dropped = append(dropped, p.waiting.remove(gone)...)
	dropped = append(dropped, p.dropSuspects(gone)...)
	for _, a := range asgs {
		dropped = append(dropped, a.unready...)
		a.unready = nil
	}
	behind, turns := p.dropLines(gone)
	dropped = append(dropped, behind...)
	for _, d := range dropped {
		p.release(d, now)
	}
	for _, d := range turns {
		p.enter(d, now)
	}
	p.dropDoubts(gone, now)
	for _, a := range asgs {
		if a.busy == 0 && a.drained != nil {
			close(a.drained)
			a.drained = nil
		}
	}
}

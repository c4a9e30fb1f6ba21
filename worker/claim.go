package worker

// Stage claim: may it run, and by whose leave? One call for all that start now.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	parkFor     = 500 * time.Millisecond // before a parked record is asked about again
	redisPause  = 100 * time.Millisecond // after a call that failed, doubled up to
	redisPauses = 2 * time.Second
)

// claimCall asks for deliveries of one or more owners.
type claimCall struct{ batch []*delivery }

// claimAnswer is what came of a claimCall: a grant for each, or err for all.
type claimAnswer struct {
	batch  []*delivery
	grants []claims.Grant
	err    error
}

// stepClaim acts on answers, then asks for as many as can start.
func (p *pipeline) stepClaim(now time.Time) {
	for _, a := range p.answers.take() {
		p.asking, p.asked = false, nil
		if a.err != nil {
			p.claimFailed(a, now)
			continue
		}
		p.claimsWork(now)
		for i, d := range a.batch {
			p.granted1(d, &a.grants[i], now)
		}
	}
	if p.stopping || p.isolating(now) {
		return
	}
	if p.asking || p.slots == 0 || p.ready.size == 0 || now.Before(p.redisOff) {
		return
	}
	batch := p.ready.pop(p.slots, now, make([]*delivery, 0, min(p.slots, p.ready.size)))
	if len(batch) == 0 {
		return
	}
	p.slots -= len(batch) // pop took them
	p.ask(batch)
}

// ask puts a batch's question; one is asked at a time.
func (p *pipeline) ask(batch []*delivery) {
	for _, d := range batch {
		p.hold(d)
	}
	p.asking, p.asked = true, batch
	p.claimCalls <- claimCall{batch} // capacity one
}

// claimLoop is the goroutine that waits for Redis.
func (w *Worker) claimLoop(ctx context.Context) {
	room := claimRoom{recs: make([]claims.Record, 0, w.cfg.Concurrency)}
	for call := range w.claimCalls {
		began := time.Now()
		grants, err := w.claim(ctx, call.batch, &room)
		w.met.claimSeconds.Observe(time.Since(began).Seconds())
		w.p.answers.put(claimAnswer{call.batch, grants, err})
	}
}

// claimRoom is memory that one call after the other uses: the loop asks again only when
// it has acted on the grants of the call before.
type claimRoom struct {
	recs   []claims.Record
	grants []claims.Grant
}

// claim makes one call for each owner in the batch: an owner is an assignment's.
func (w *Worker) claim(ctx context.Context, batch []*delivery, room *claimRoom) (_ []claims.Grant, err error) {
	owner := batch[0].asg.owner
	all := !slices.ContainsFunc(batch, func(d *delivery) bool { return d.asg.owner != owner })
	if all {
		clear(room.grants)
		room.grants, err = w.claimFor(ctx, owner, batch, room, room.grants[:0])
		return room.grants, err
	}
	grants := make([]claims.Grant, len(batch))
	asked := make([]bool, len(batch))
	for i := range batch {
		if asked[i] {
			continue
		}
		part, err := w.claimFor(ctx, batch[i].asg.owner, batch[i:], room, nil)
		if err != nil {
			if i > 0 {
				// The answers of other owners stand; a zero verdict asks again.
				return grants, nil
			}
			return nil, err
		}
		for j := i; j < len(batch); j++ {
			if batch[j].asg.owner == batch[i].asg.owner {
				grants[j], asked[j] = part[0], true
				part = part[1:]
			}
		}
	}
	return grants, nil
}

// claimFor appends the grants of the owner's deliveries among these.
func (w *Worker) claimFor(ctx context.Context, owner string, among []*delivery, room *claimRoom, grants []claims.Grant) ([]claims.Grant, error) {
	room.recs = room.recs[:0]
	for _, d := range among {
		if d.asg.owner == owner {
			room.recs = append(room.recs, d.record())
		}
	}
	return w.deps.Claims.Claim(ctx, owner, room.recs, grants)
}

// claimFailed puts everything back: nothing runs unclaimed.
func (p *pipeline) claimFailed(a claimAnswer, now time.Time) {
	for i := len(a.batch) - 1; i >= 0; i-- {
		p.unclaimed(a.batch[i], now)
	}
	p.redisPause = min(max(2*p.redisPause, redisPause), redisPauses)
	p.redisOff = now.Add(p.redisPause)
	if errors.Is(a.err, claims.ErrPaused) {
		p.redisOff = now.Add(redisPause)
	}
	p.redisTrouble(a.err)
}

// unclaimed gives a slot back and puts a delivery at the head of its line.
func (p *pipeline) unclaimed(d *delivery, now time.Time) {
	p.freeSlot(d)
	d.unprobe()
	p.letGo(d)
	if d.asg.draining {
		p.release(d, now)
		return
	}
	p.ready.push(d, true)
}

// claimsWork notes that Redis answers.
func (p *pipeline) claimsWork(time.Time) {
	p.redisPause = 0
	p.redisFine()
}

// granted1 acts on one verdict. Every case ends in exactly one of: executed,
// settled, waiting, acknowledged.
func (p *pipeline) granted1(d *delivery, g *claims.Grant, now time.Time) {
	if g.Verdict == 0 { // another owner's call failed
		p.unclaimed(d, now)
		return
	}
	d.crashes = g.Claim.Crashes
	if g.Verdict != claims.VerdictPark && g.Verdict != claims.VerdictAlone {
		d.parked = time.Time{}
	}
	if g.Verdict == claims.VerdictRun {
		p.met.run(d.asg.intake.queue)
		before := max(d.run, d.task.Run) // that of work elsewhere
		d.run, d.attempt, d.inDoubt, d.local, d.lease, d.known = g.Run, g.Attempt, g.InDoubt, false, g.Lease, true
		d.first = before == 0 && !g.InDoubt && g.Attempt == 1 && schemas.IsFirstRun(g.Run)
		p.claimed.add(d)
		if g.InDoubt && !g.Unheard {
			p.tell(d, dlq.EventCrashed, execution.Result{}, map[string]any{"crashes": d.crashes})
		}
		d.history = decodeHistory(g.Claim.History)
		d.elsewhere = 0
		if g.Claim.Report != nil {
			p.reported(d, g.Claim.Report, before, now)
			return
		}
		if g.Unheard && d.condemn == "" {
			p.unheard(d, before, now)
			return
		}
		p.start(d, now)
		return
	}
	p.met.verdicts.WithLabelValues(d.asg.intake.queue, verdictName(g.Verdict)).Inc()
	d.known = true
	p.freeSlot(d)
	d.unprobe()
	switch g.Verdict {
	case claims.VerdictAck:
		if s := g.Claim.State; s == claims.Done || s == claims.Cancelled {
			p.itIsOver(d, s, now) // whoever ended it may have been killed before it said so
			return
		}
		p.prove(d, func(now time.Time) { p.ack(d, now) })
	case claims.VerdictPark:
		if d.parked.IsZero() && d.shared() {
			d.parked = now
		}
		p.park(d, now.Add(parkFor))
	case claims.VerdictWait:
		d.attempt, d.run, d.local = max(g.Claim.Attempt, 1), g.Claim.Run, true
		d.history, d.elsewhere = decodeHistory(g.Claim.History), g.Claim.Elsewhere
		p.park(d, lookDue(d, p.waitUntil(d, g.Claim.Due, now), now))
	case claims.VerdictRetry:
		d.attempt, d.run = max(g.Claim.Attempt, 1), g.Claim.Run
		due := g.Claim.Due
		if d.elsewhere = g.Claim.Elsewhere; d.elsewhere > 0 {
			due = p.timerDue(d, cmp.Or(g.Claim.Left, d.elsewhere), now)
		}
		if due.IsZero() {
			due = p.waitUntil(d, due, now)
		}
		p.hopRetry(d, due, now)
	case claims.VerdictLetter:
		was := *g
		p.prove(d, func(now time.Time) { p.letterAgain(d, &was, now) })
	case claims.VerdictResolve:
		p.hopResolved(d, now)
	case claims.VerdictAlone:
		p.suspect(d, d.crashes)
	default:
		p.log.Error("unknown verdict: parked", "verdict", g.Verdict, "task_id", d.task.ID)
		p.park(d, now.Add(parkFor))
	}
}

// start sends a granted delivery on: to its executor, unless it came too late.
func (p *pipeline) start(d *delivery, now time.Time) {
	switch {
	case d.asg.draining || p.stopping:
		p.freeSlot(d)
		d.unprobe()
		p.settle(settlement{op: opHandBack, d: d})
	case d.condemn != "":
		p.freeSlot(d)
		d.unprobe()
		p.settleDead(d, d.condemn)
	case d.task.Expired(now):
		p.freeSlot(d)
		d.unprobe()
		d.why = execution.Result{Class: "expired", Message: "the deadline passed before the task could run"}
		p.settleDead(d, schemas.ReasonExpired)
	case d.tooLate(now):
		p.freeSlot(d)
		d.unprobe()
		d.why = execution.Result{Class: "expired", Message: fmt.Sprintf("no attempt began within %v of %s (start_within)", d.kind.StartWithin, d.since().UTC().Format(time.RFC3339))}
		p.settleDead(d, schemas.ReasonExpired)
	default:
		p.granted = append(p.granted, d)
	}
}

// tooLate reports whether a task's first attempt would begin later than its kind
// allows. It is asked under a grant: only the claim knows whether it is the first.
func (d *delivery) tooLate(now time.Time) bool {
	return d.first && d.kind.StartsTooLate(d.since(), now)
}

// since is when a task that was never run could have begun: when it was enqueued,
// or due. On the tour of an unknown kind its due time is that of the next station.
func (d *delivery) since() time.Time {
	at := d.task.Time
	if at.IsZero() {
		at = d.rec.Timestamp
	}
	if due := unknownSince(d.rec, d.task.Due); due.After(at) {
		at = due
	}
	return at
}

// park keeps a delivery unacknowledged and asks again later.
func (p *pipeline) park(d *delivery, until time.Time) {
	p.letGo(d)
	if d.asg.draining {
		p.release(d, time.Now())
		return
	}
	p.wait(d, until)
}

// waitUntil is when a wait in the worker ends: as noted in the claim, but never
// longer than the policy's longest, whatever another host's clock said.
func (p *pipeline) waitUntil(d *delivery, due, now time.Time) time.Time {
	longest := now.Add(d.kind.Retry.MaxDelay)
	if due.IsZero() {
		return now.Add(backoff(d.kind.Retry, max(d.attempt-1, 1), 0))
	}
	if due.After(longest) {
		return longest
	}
	return due
}

func verdictName(v claims.Verdict) string {
	switch v {
	case claims.VerdictRun:
		return "run"
	case claims.VerdictAck:
		return "ack"
	case claims.VerdictPark:
		return "park"
	case claims.VerdictWait:
		return "wait"
	case claims.VerdictRetry:
		return "retry"
	case claims.VerdictLetter:
		return "letter"
	case claims.VerdictResolve:
		return "resolve"
	case claims.VerdictAlone:
		return "alone"
	}
	return "unknown"
}

package worker

// Outcomes on their way to Redis: gathered while a call is under way, written
// in one call each for what is done, waits, is dead, is handed back.

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

type settleOp uint8

const (
	opDone settleOp = iota + 1
	opLateDone
	opWait
	opDead
	opHandBack
	opCancelled
)

// settlement is one outcome; the answer's fields are filled in by settleLoop.
type settlement struct {
	op        settleOp
	d         *delivery
	next      int            // opWait: the attempt it waits for
	due       time.Time      // opWait
	local     bool           // opWait: here, at its record
	elsewhere time.Duration  // opWait: the work goes on elsewhere, and may be silent for so long; 0 = it does not
	reason    schemas.Reason // opDead
	late      claims.Outcome // opLateDone

	history []byte
	ok      bool // the claim was ours
	resolve bool // opDone: produce resolved
}

// settle hands an outcome to the goroutine that writes to Redis.
func (p *pipeline) settle(s settlement) {
	if s.op == opWait || s.op == opDead {
		s.history = dlq.EncodeAttempts(s.d.history, historyLimit)
	}
	p.toSettle.put(s)
}

// historyLimit bounds the failure history kept in a claim, in bytes.
const historyLimit = 16 << 10

func decodeHistory(b []byte) []dlq.Attempt {
	if len(b) == 0 {
		return nil
	}
	attempts, err := dlq.DecodeAttempts(b)
	if err != nil {
		return nil // history is for people; the task goes on without it
	}
	return attempts
}

// settleLoop writes outcomes until stop closes and nothing is left to write.
func (w *Worker) settleLoop(ctx context.Context) {
	for {
		batch := w.p.toSettle.take()
		if len(batch) == 0 {
			select {
			case <-w.settleWake:
				continue
			case <-ctx.Done():
				return
			}
		}
		w.writeUntilTaken(ctx, batch)
	}
}

// writeUntilTaken writes a batch, again and again while Redis is away: an outcome
// that is not written is a handler that runs twice.
func (w *Worker) writeUntilTaken(ctx context.Context, batch []settlement) {
	left := make([]*settlement, len(batch))
	for i := range batch {
		left[i] = &batch[i]
	}
	pause := redisPause
	for {
		began := time.Now()
		var err error
		left, err = w.write(ctx, left)
		w.met.settleSeconds.Observe(time.Since(began).Seconds())
		if len(left) == 0 {
			return
		}
		w.redisTrouble(err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return // the claims stay: in doubt
		}
		pause = min(2*pause, redisPauses)
	}
}

// write makes the calls, passes on what was answered, and returns what was not.
func (w *Worker) write(ctx context.Context, all []*settlement) (left []*settlement, err error) {
	type group struct {
		op    settleOp
		owner string
	}
	groups := map[group][]*settlement{}
	for _, s := range all {
		g := group{s.op, s.d.asg.owner}
		if s.op == opLateDone {
			g.op = opDone
		}
		groups[g] = append(groups[g], s)
	}
	for g, part := range groups {
		var e error
		switch g.op {
		case opDone:
			e = w.writeDone(ctx, g.owner, part)
		case opWait:
			e = w.writeWait(ctx, g.owner, part)
		case opDead:
			e = w.writeDead(ctx, g.owner, part)
		case opHandBack:
			e = w.deps.Claims.HandBack(ctx, g.owner, holdsOf(part))
		case opCancelled:
			e = taken(part)(w.deps.Claims.Cancelled(ctx, g.owner, holdsOf(part)))
		}
		if e != nil {
			left, err = append(left, part...), errors.Join(err, e)
			continue
		}
		w.p.settled.putAll(part)
	}
	return left, err
}

func holdsOf(part []*settlement) []claims.Hold {
	holds := make([]claims.Hold, len(part))
	for i, s := range part {
		holds[i] = claims.Hold{TaskID: s.d.task.ID, Run: s.d.run, Lease: s.d.lease}
	}
	return holds
}

func (w *Worker) writeDone(ctx context.Context, owner string, part []*settlement) error {
	outs := make([]claims.Outcome, len(part))
	for i, s := range part {
		outs[i] = claims.Outcome{TaskID: s.d.task.ID, Epoch: s.d.task.Epoch, Run: s.d.run, Lease: s.d.lease}
		if s.op == opLateDone {
			outs[i] = s.late
		}
	}
	results, err := w.deps.Claims.Done(ctx, owner, outs)
	if err != nil {
		return err
	}
	for i, r := range results {
		part[i].ok, part[i].resolve = r.Mine, r.Resolve
	}
	return nil
}

func (w *Worker) writeWait(ctx context.Context, owner string, part []*settlement) error {
	outs := make([]claims.WaitOutcome, len(part))
	for i, s := range part {
		outs[i] = claims.WaitOutcome{
			TaskID: s.d.task.ID, Run: s.d.run, NextAttempt: s.next, Due: s.due, Local: s.local, History: s.history, Elsewhere: s.elsewhere, Lease: s.d.lease,
		}
	}
	return taken(part)(w.deps.Claims.Wait(ctx, owner, outs))
}

func (w *Worker) writeDead(ctx context.Context, owner string, part []*settlement) error {
	outs := make([]claims.DeadOutcome, len(part))
	for i, s := range part {
		outs[i] = claims.DeadOutcome{
			TaskID: s.d.task.ID, Epoch: s.d.task.Epoch, Attempt: s.d.attempt, Coord: s.d.coord(),
			Run: s.d.run, Reason: string(s.reason), History: s.history, Lease: s.d.lease,
		}
	}
	return taken(part)(w.deps.Claims.Dead(ctx, owner, outs))
}

// taken files the answers of a compare-and-set.
func taken(part []*settlement) func([]bool, error) error {
	return func(ok []bool, err error) error {
		if err != nil {
			return err
		}
		for i := range part {
			part[i].ok = ok[i]
		}
		return nil
	}
}

// stepOutcome acts on what Redis and Kafka answered.
func (p *pipeline) stepOutcome(now time.Time) {
	for _, s := range p.settled.take() {
		p.redisFine()
		p.settled1(&s, now)
	}
	for _, h := range p.hopped.take() {
		p.hopped1(h, now)
	}
}

func (p *pipeline) settled1(s *settlement, now time.Time) {
	d := s.d
	if s.op == opLateDone {
		p.lateSettled(s, now)
		return
	}
	p.claimed.remove(d)
	switch s.op {
	case opHandBack:
		p.park(d, now.Add(parkFor))
		return
	case opDone:
		p.met.of(d.kind.Name).done.Inc()
		p.recall(d, now)
		if s.resolve {
			p.hopResolved(d, now) // which gives a unique key back too
			return
		}
		p.over(d, now)
		return
	}
	if !s.ok {
		// Somebody else owns it now, or it is decided: nothing is produced, nothing
		// acknowledged, the record asks again.
		p.park(d, now.Add(parkFor))
		return
	}
	switch {
	case s.op == opCancelled:
		p.met.cancelled.WithLabelValues(d.kind.Name).Inc()
		p.tell(d, dlq.EventCancelled, execution.Result{}, nil)
		p.itIsOver(d, claims.Cancelled, now)
	case s.op == opDead:
		p.died(d, s.reason, now)
	case s.local:
		d.attempt, d.local, d.elsewhere = s.next, true, s.elsewhere
		d.timer = false // what it was made for is settled
		p.park(d, lookDue(d, s.due, now))
	default:
		d.attempt, d.elsewhere = s.next, s.elsewhere
		p.hopRetry(d, s.due, now)
	}
}

// lateSettled follows an abandoned handler's success. Its record has gone its way
// already: whatever comes of it finds the task done. A letter that it left is
// told so; if that is lost, a replay of the letter is refused all the same.
func (p *pipeline) lateSettled(s *settlement, now time.Time) {
	p.met.done.WithLabelValues(s.d.kind.Name).Inc()
	if !s.resolve {
		p.overLate(s.d, s.late.Epoch, s.late.Run)
		return
	}
	rec := dlq.Resolved(s.d.task.RecordKey(), s.late.TaskID, s.late.Epoch, now)
	rec.Topic = p.deps.Names.DLQ(s.d.asg.intake.queue)
	p.producer.TryProduce(p.produceCtx, rec, func(_ *kgo.Record, err error) {
		if err != nil {
			p.log.Warn("a dead letter whose task completed late is not marked resolved", "task_id", s.late.TaskID, "err", err)
		}
	})
}

// ack ends a delivery: what it was is durable elsewhere.
func (p *pipeline) ack(d *delivery, now time.Time) {
	if d.shared() {
		d.rec.Ack(kgo.AckAccept)
		p.letGo(d)
		p.release(d, now)
		return
	}
	if p.nextCommit.IsZero() {
		p.nextCommit = now.Add(p.cfg.CommitInterval)
	}
	d.asg.tracker.Ack(d.rec.Offset) // false: the partition was revoked, and its next owner asks the claims
	p.letGo(d)
	p.release(d, now)
}

// leaveInDoubt keeps the claim and says nothing: only the claims' silence rule,
// or the handler's own late success, may decide about this run.
func (p *pipeline) leaveInDoubt(d *delivery, r execution.Result, now time.Time) {
	p.log.Warn("left in doubt by a stop", "task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue,
		"attempt", d.attempt, "run", d.run, "err", r.Message)
	p.claimed.remove(d)
	p.letGo(d)
	p.release(d, now)
}

package worker

// on_dead: block — the later tasks of a key wait until the letter of a dead one is
// settled (docs/decisions/0220).
//
// The block is on perdure.control, and read back by this worker, before the letter
// is written and the record acknowledged: whoever owns the partition next reads the
// blocks first. The later tasks become letters with reason blocked, one after the
// other as their turn comes, so that no partition is held up however long the key
// waits; a lift lets them go on (lift.go).

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/blocks"
	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

const (
	// besideTimeout bounds a call to Kafka that one key's line waits for.
	besideTimeout = 10 * time.Second
	// besideAgain is the wait after one that failed.
	besideAgain = time.Second
)

// hasBlocks reports whether a kind of this worker blocks its keys.
func (w *Worker) hasBlocks() bool {
	for _, k := range w.kinds {
		if k.Ordered && k.BlockOnDead {
			return true
		}
	}
	return false
}

// blocking reports whether a death of d blocks its key, and d waits behind others.
func (d *delivery) blocking() bool {
	return d.task.Key != "" && d.kind != nil && d.kind.Kind != nil && d.kind.Ordered && d.kind.BlockOnDead
}

func (d *delivery) lineOf() blocks.Line {
	return blocks.LineOf(d.asg.intake.queue, d.task.ID, d.task.Key)
}

// behind returns a letter that d has to wait for; "" = none. Its own does not
// count: that is what its replay is for.
func (p *pipeline) behind(d *delivery) string {
	if p.blocks == nil || !d.blocking() || d.run != 0 || d.local {
		return "" // what was granted here once had its turn before
	}
	for _, letter := range p.blocks.Blocks(d.lineOf()) {
		if !blocks.Own(letter, d.task.ID, d.task.Epoch) {
			return letter
		}
	}
	return ""
}

// waitsFor condemns d to wait behind a letter. The claims have the last word, as
// with every task that dies without a run.
func (p *pipeline) waitsFor(d *delivery, letter string) {
	d.blockedBy = letter
	p.condemn(d, schemas.ReasonBlocked, execution.Result{
		Class: "blocked", Message: "waits until the letter " + letter + " of its key is settled",
	})
}

// beside does what one key's line waits for, beside the loop, and goes on with
// then, on the loop; again and again until it succeeds. d is held meanwhile.
func (p *pipeline) beside(d *delivery, what string, do func(context.Context) error, then func(time.Time)) {
	p.away[d] = "its key waits for this: " + what
	p.executors.Add(1)
	go func() {
		defer p.executors.Done()
		ctx, cancel := context.WithTimeout(p.workCtx, besideTimeout)
		err := do(ctx)
		cancel()
		p.orders.put(func(now time.Time) {
			switch {
			case err == nil:
				then(now)
			case p.stopping || d.asg.draining:
				p.letGo(d)
				p.release(d, now) // its next owner does it
			default:
				p.met.hopErrors.WithLabelValues(d.asg.intake.queue).Inc()
				p.log.Error("cannot "+what+", trying again; its key waits", "task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue, "err", err)
				d.resume = func(time.Time) {
					p.hold(d)
					p.beside(d, what, do, then)
				}
				p.park(d, now.Add(besideAgain))
			}
		})
	}()
}

// block lets the block of a dead task stand, and goes on once this worker has read it.
func (p *pipeline) block(d *delivery, then func(time.Time)) {
	p.stand(d, "block the key of a dead task", d.letterID(), func(now time.Time) {
		d.blocked = true
		then(now)
	})
}

// stand blocks d's line by a letter, and goes on once this worker has read it.
func (p *pipeline) stand(d *delivery, what, letter string, then func(time.Time)) {
	p.beside(d, what, func(ctx context.Context) error {
		rec, err := blocks.Block{
			Queue: d.asg.intake.queue, Letter: letter, Key: d.task.Key, Partition: d.rec.Partition,
		}.Stand()
		if err != nil {
			return err
		}
		rec.Topic = p.deps.Names.Control()
		if err := p.producer.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return fmt.Errorf("write %s: %w", rec.Topic, err)
		}
		return p.blocks.Reach(ctx, rec.Offset+1)
	}, then)
}

// prove makes sure, before a death that another owner decided of is passed, that
// this worker still owns the partition and knows the blocks that were written up
// to now: else it might let a task overtake one that it never saw waiting.
func (p *pipeline) prove(d *delivery, then func(time.Time)) {
	if p.blocks == nil || !d.blocking() {
		then(time.Now())
		return
	}
	p.beside(d, "make sure that the partition is still ours", func(ctx context.Context) error {
		if err := p.stillMember(ctx, d.asg.intake); err != nil {
			return err
		}
		return p.blocks.Sync(ctx)
	}, p.ifStillHere(d, then))
}

// ifStillHere goes on with then, unless the partition has gone meanwhile.
func (p *pipeline) ifStillHere(d *delivery, then func(time.Time)) func(time.Time) {
	return func(now time.Time) {
		if d.asg.draining {
			p.letGo(d)
			p.release(d, now)
			return
		}
		then(now)
	}
}

// stillMember asks the group's coordinator whether this worker is in its present
// generation: nobody else has its partitions then.
func (w *Worker) stillMember(ctx context.Context, in *intake) error {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.InstanceID = in.group, &w.cfg.Instance
	req.MemberID, req.Generation = in.cl.GroupMetadata()
	resp, err := req.RequestWith(ctx, in.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("group %s: %w", in.group, err)
	}
	return nil
}

// beginBlocks reads the blocks that earlier owners of new assignments wrote.
// Until then nothing of a kind with on_dead: block starts there.
func (w *Worker) beginBlocks(in *intake, asgs []*assignment) {
	if w.blocks == nil || in.share != nil {
		for _, a := range asgs {
			a.blocksKnown = true // nobody looks at them yet
		}
		return
	}
	w.p.orders.put(func(time.Time) {
		w.executors.Add(1)
		go w.readBlocks(in, asgs)
	})
}

// readBlocks lets assignments begin once their earlier owners' blocks are read.
func (w *Worker) readBlocks(in *intake, asgs []*assignment) {
	defer w.executors.Done()
	for {
		ctx, cancel := context.WithTimeout(w.workCtx, besideTimeout)
		err := w.blocks.Sync(ctx)
		cancel()
		if err == nil {
			break
		}
		if w.workCtx.Err() == nil {
			w.log.Error("cannot read which keys are blocked, trying again; kinds with on_dead: block wait", "queue", in.queue, "err", err)
		}
		select {
		case <-time.After(besideAgain):
		case <-w.workCtx.Done():
			return
		}
	}
	w.p.orders.put(func(now time.Time) {
		for _, a := range asgs {
			a.blocksKnown = true
			waited := a.unready
			a.unready = nil
			for _, d := range waited {
				w.p.enter(d, now)
			}
		}
	})
}

package worker

// Lifts: how a key's line goes on after a block.
//
//	ask   the line stops there. What is below it is committed, then its worker says
//	      which blocks it knows, behind all letters that it made
//	lift  the blocks that it names end
//	from  tasks that had waited: their turn comes while the line stands at the ask
//	end   all of them stand before it: the line goes on behind the ask
//
// The ask is acknowledged at the end and not before: whoever owns the partition next
// stops there again. What came behind the ask waits unacknowledged meanwhile, as it
// does behind a retry.

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/blocks"
	"github.com/perdure/perdure/schemas"
)

// lets reports whether d's turn may come while the line stands at the ask.
func (ask *delivery) lets(d *delivery) bool {
	switch d.word.Verb {
	case schemas.LineFrom, schemas.LineLift, schemas.LineEnd, schemas.LineDead:
	default:
		return false
	}
	return d.word.Lift == ask.word.Lift && source(d.task.ID) == source(ask.task.ID)
}

// source is that of a task id: numbers of lifts are one source's.
func source(id string) string {
	for range 2 {
		if i := strings.LastIndexByte(id, '-'); i >= 0 {
			id = id[:i]
		}
	}
	return id
}

// toldLine acts on a word to the line, whose turn it is.
func (p *pipeline) toldLine(d *delivery, now time.Time) {
	at := d.line.at
	p.hold(d)
	switch {
	case d.word.Verb == schemas.LineAsk:
		p.askedLine(d)
	case at == nil || !at.lets(d):
		p.ack(d, now) // of a lift that is over
	case d.word.Verb == schemas.LineLift:
		p.liftBlocks(d)
	default: // the end. The ask first: an ask without its end would stand for ever.
		p.hold(at)
		p.ack(at, now)
		p.ack(d, now)
	}
}

// askedLine commits what is below the ask, answers, and stands there.
func (p *pipeline) askedLine(d *delivery) {
	p.beside(d, "commit what is below a lift", func(ctx context.Context) error {
		if err := p.commitNow(ctx, d.asg.intake); err != nil {
			return err
		}
		return p.stillMember(ctx, d.asg.intake)
	}, p.ifStillHere(d, func(time.Time) {
		p.beside(d, "answer a lift", func(ctx context.Context) error {
			a := dlq.Answer{TaskID: d.task.ID, Lift: d.word.Lift, Key: d.task.Key, Blocks: []string{}}
			if p.blocks != nil {
				a.Blocks = p.blocks.Blocks(d.lineOf())
			}
			rec, err := dlq.EncodeAnswer(&a, time.Now())
			if err != nil {
				return err
			}
			rec.Topic = p.deps.Names.DLQ(d.asg.intake.queue)
			return p.producer.ProduceSync(ctx, rec).FirstErr()
		}, p.ifStillHere(d, func(now time.Time) {
			line := d.line
			p.letGo(d)
			line.at = d
			p.asks++
			if line.turn = line.next(); line.turn != nil {
				p.enter(line.turn, now)
			}
		}))
	}))
}

// liftBlocks ends the blocks that a lift names.
func (p *pipeline) liftBlocks(d *delivery) {
	p.beside(d, "lift the blocks of a key", func(ctx context.Context) error {
		if p.blocks == nil || len(d.word.Letters) == 0 {
			return nil // the kind no longer has on_dead: block
		}
		recs := make([]*kgo.Record, len(d.word.Letters))
		for i, letter := range d.word.Letters {
			recs[i] = blocks.End(d.asg.intake.queue, letter)
			recs[i].Topic = p.deps.Names.Control()
		}
		if err := p.producer.ProduceSync(ctx, recs...).FirstErr(); err != nil {
			return fmt.Errorf("write %s: %w", p.deps.Names.Control(), err)
		}
		for _, r := range recs {
			if err := p.blocks.Reach(ctx, r.Offset+1); err != nil {
				return err
			}
		}
		return nil
	}, func(now time.Time) {
		p.log.Info("the block of a key is lifted", "queue", d.asg.intake.queue, "letters", d.word.Letters)
		p.ack(d, now)
	})
}

package worker

// Room for the end of a lift. A line that stands at an ask holds what came behind it,
// and the end that it waits for comes behind that. Where such lines fill the room of
// their queue nothing is fetched any more, also of other keys, and no end ever comes.
// Then they give the ask up: what came behind it goes the way of what came before it,
// and waits behind a block as letters, which the next lift takes.

import (
	"time"

	"github.com/perdure/perdure/internal/blocks"
)

// roomEvery is how often lines that stand at an ask are looked at.
const roomEvery = 250 * time.Millisecond

// stepRoom looks for queues whose room is mostly filled by lines at an ask.
func (p *pipeline) stepRoom(now time.Time) {
	if p.asks == 0 || p.stopping || now.Before(p.nextRoom) {
		return
	}
	p.nextRoom = now.Add(roomEvery)
	for _, in := range p.intakes {
		var lines []*keyLine
		records, bytes := 0, 0
		for _, line := range p.lines {
			if line.at == nil || line.at.asg.intake != in {
				continue
			}
			lines = append(lines, line)
			for _, d := range line.queue {
				records, bytes = records+1, bytes+d.size
			}
		}
		if !in.gate.filledBy(records, bytes) {
			continue
		}
		for _, line := range lines {
			p.giveUp(line)
		}
	}
}

// giveUp lets a line go on without the end of its lift. First another block stands,
// which that lift does not name: it holds back what comes behind the ask, and what
// the lift lets go, also from whoever owns the partition next and stands at the ask
// again.
func (p *pipeline) giveUp(line *keyLine) {
	ask := line.at
	if line.turn != nil || len(line.queue) == 1 || p.blocks == nil {
		return
	}
	p.log.Warn("too many tasks came behind a lift of their key: they wait as letters, and another lift takes them",
		"queue", ask.asg.intake.queue, "task_id", ask.task.ID, "lift", ask.word.Lift, "tasks", len(line.queue)-1)
	line.turn = ask
	p.hold(ask)
	p.stand(ask, "block a key whose lift is given up", blocks.OfLift(ask.task.ID, ask.word.Lift), p.ifStillHere(ask, func(now time.Time) { p.ack(ask, now) }))
}

// filledBy reports whether there is no room, and so much takes half of it or more.
func (g *gate) filledBy(records, bytes int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.room() == 0 && (2*records >= g.maxRecords || 2*bytes >= g.maxBytes)
}

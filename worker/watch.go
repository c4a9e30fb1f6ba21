package worker

// Who of the others fell silent: judged by what this worker saw itself, on its
// own monotonic clock, and only while it could see.

import (
	"time"

	"github.com/perdure/perdure/internal/claims"
)

// watch judges one look at the others after another. It does no I/O.
//
// What is counted is not "now minus last heard", which a stopped watcher or a
// Redis that hung would make long for everybody, but the time between two looks
// that saw the same count of beats, and of that no more than two steps: so many
// looks, well apart, must each have seen nothing new.
type watch struct {
	step    time.Duration // between two beats
	silence time.Duration // without a beat: dead
	wary    time.Duration // nobody is called dead so soon after this worker or Redis was away
	most    int           // so many may be silent together; more may have a cause in common
	certain time.Duration // so long a silence is death even of several, if they are the fewer

	last  time.Time // when the last look was answered; zero = none yet
	until time.Time // of being wary
	peers map[string]seen
}

type seen struct {
	beats int64
	quiet time.Duration // seen without a beat
}

func newWatch(step, silence time.Duration) *watch {
	return &watch{step: step, silence: silence, wary: 3 * silence, most: 1, certain: 3 * silence, peers: map[string]seen{}}
}

// look takes what was asked for at one moment and answered at another, and
// returns a peer that is to be removed now, nil = nobody, and whether it is one
// of several. One that somebody began to remove and did not finish comes first.
//
// Several that are silent at the same time are more likely cut off or starved
// together than dead. They are called dead, the one after the other, only when
// they stay silent for much longer, under the eyes of more that live than they
// are: a host that died, not a network that is away.
func (v *watch) look(asked, answered time.Time, peers []claims.Peer) (dead *claims.Peer, several bool) {
	step := v.step * time.Duration(v.every())
	late := max(3*step, v.silence/2)
	var passed time.Duration
	if !v.last.IsZero() {
		passed = asked.Sub(v.last)
	}
	v.last = answered
	if passed > late || answered.Sub(asked) > late {
		v.until = answered.Add(v.wary)
	}
	now := make(map[string]seen, len(peers))
	var begun *claims.Peer
	var longest time.Duration
	silent := 0
	for i := range peers {
		p := &peers[i]
		if p.Gone {
			begun = p
			continue
		}
		s, known := v.peers[p.Process]
		if !known || s.beats != p.Beats {
			s = seen{beats: p.Beats}
		} else {
			s.quiet += min(passed, 2*step)
		}
		now[p.Process] = s
		if s.quiet >= v.silence/2 {
			silent++
		}
		if s.quiet >= v.silence && s.quiet > longest {
			dead, longest = p, s.quiet
		}
	}
	v.peers = now
	several = silent > v.most
	living := 1 + len(now) - silent // with this worker
	switch {
	case begun != nil:
		return begun, several
	case answered.Before(v.until), several && (silent >= living || longest < v.certain):
		return nil, false
	}
	return dead, several
}

// blind notes that a beat of this worker's own failed: what it could not see
// counts for nobody's silence.
func (v *watch) blind(now time.Time) { v.last, v.until = now, now.Add(v.wary) }

// heard reports whether one of peers has beaten since the last look that knew it.
func (v *watch) heard(peers []claims.Peer) bool {
	for i := range peers {
		if s, known := v.peers[peers[i].Process]; known && !peers[i].Gone && s.beats != peers[i].Beats {
			return true
		}
	}
	return false
}

// watchAll is how many members every worker looks at with each of its beats;
// with more it looks at them all the less often, so that Redis's work for it
// grows with the fleet and not with its square.
const watchAll = 64

// every is after how many beats the next look is due.
func (v *watch) every() int { return 1 + len(v.peers)/watchAll }

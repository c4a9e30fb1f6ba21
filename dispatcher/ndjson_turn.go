package dispatcher

// When an NDJSON post may go on: what is over the rate is not refused but slowed
// down, by not reading further, which the client feels by TCP's flow control.

import (
	"context"

	"github.com/perdure/perdure/internal/api"
)

// begin counts the post in, or says why it may not begin.
func (s *stream) begin(ctx context.Context) (done func(), p *api.Problem) {
	if p := s.d.gate.Closed(); p != nil {
		return nil, p
	}
	if p := s.who.UsedUp(ctx); p != nil {
		return nil, p
	}
	return s.who.Stream()
}

// turn says whether the line that is held may go into the batch. wait: it is the
// first one, so nothing else is kept waiting, and it waits until it may or has
// waited too long, which is the problem. Else what is in the batch goes first.
func (s *stream) turn(ctx context.Context, wait bool) (ok bool, p *api.Problem) {
	if !wait {
		return s.d.gate.Closed() == nil && s.who.TakeNow(), nil
	}
	most := s.d.cfg.lineWait
	if s.shut { // its client has been told to come back
		most = 0
	}
	p = s.d.gate.AwaitOpen(ctx, most)
	if s.shut = p != nil; p != nil {
		return true, p
	}
	if s.who.TakeNow() {
		return true, nil
	}
	return true, s.who.Await(ctx, s.d.cfg.lineWait)
}

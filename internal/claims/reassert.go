package claims

// After Redis was lost: what live workers know stands again.

import (
	"context"
	"fmt"
)

// Reassert says what an owner still holds and what it completed in its last
// seconds, after ErrLost and Open. Claiming pauses meanwhile (ErrPaused), so
// that every live worker comes before the first new claim. The answer, for each
// of held: true: it stands, and keeps its run; false: another has a higher run,
// or it is decided: stop it, produce nothing, ask Claim again. May be repeated.
//
// After a failover a claim that its owner does not re-assert counts as silent,
// though the owner beats: its outcome was lost.
func (s *Store) Reassert(ctx context.Context, owner string, held []Held, done []Outcome) ([]bool, error) {
	if len(done) > 0 {
		if _, err := s.Done(ctx, owner, done); err != nil {
			return nil, fmt.Errorf("claims: re-assert %d completed tasks: %w", len(done), err)
		}
	}
	inc, err := s.opened()
	if err != nil {
		return nil, err
	}
	token := s.token(inc)
	flags, err := batches(ctx, s, reassertScript, owner, held, func(b *batch, h *Held) error {
		if err := h.Check(); err != nil {
			return err
		}
		if h.Run <= 0 {
			return fmt.Errorf("%w: %s is held without a run", ErrBadRecord, h.TaskID)
		}
		return b.addDone(&s.k, h.TaskID, h.Epoch, h.Attempt, h.Coord.text(), runParts(h.Run),
			h.Crashes, flag(h.Waiting), ms(h.Due), h.History, span(h.Elsewhere))
	}, token, s.k.void(""), s.cfg.Horizon.Milliseconds())
	if err != nil {
		s.mu.Lock()
		s.unsure = append(s.unsure, unsure{owner: owner, token: token}) // a copy that comes late must not bring back what ended since
		s.mu.Unlock()
	}
	return bools(flags, "re-assert", err)
}

package claims

// Calls whose answer was lost. Redis may have granted claims in this owner's
// name, nothing was started under them, and while the owner beats nobody else
// may run them: so they are handed back, by the token of the call, as soon as
// Redis answers again.
//
// It may also grant them later: TCP goes on sending what it has when the client
// has given up, and a new connection may be quicker. So the hand-back makes the
// call void, and a void call is refused when it comes.

import (
	"context"
	"fmt"
	"time"
)

// voidTTL is how long a call that was given up is remembered: longer than any
// TCP stack sends again (15 minutes on Linux).
const voidTTL = time.Hour

type unsure struct{ owner, token, taskID string } // no task: the call is void, what it did stands

// doubt notes that Claim of recs gave no answer.
func (s *Store) doubt(owner, token string, recs []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range recs {
		s.unsure = append(s.unsure, unsure{owner, token, recs[i].TaskID})
	}
}

// settleUnsure hands back what earlier calls may have taken. A later grant has
// another token and is not touched.
func (s *Store) settleUnsure(ctx context.Context, inc *incarnation) error {
	s.mu.Lock()
	list := s.unsure
	s.unsure = nil
	s.mu.Unlock()
	for len(list) > 0 {
		n := 1
		for n < len(list) && n < maxBatch && list[n].owner == list[0].owner {
			n++
		}
		keys := append(make([]string, 0, 2*n+1), s.k.inc)
		args := append(make([]any, 0, 5+3*n), inc.token, list[0].owner, s.cfg.Horizon.Milliseconds(),
			s.k.void(""), voidTTL.Milliseconds())
		for _, u := range list[:n] {
			if u.taskID == "" {
				keys, args = append(keys, s.k.inc, s.k.inc), append(args, 0, "v", u.token)
				continue
			}
			chunk, bit, err := s.k.done(u.taskID)
			if err != nil {
				return err // not reached: Claim asked about it
			}
			keys, args = append(keys, s.k.claim(u.taskID), chunk), append(args, bit, "k", u.token)
		}
		if _, err := s.run(ctx, handBackScript, inc, keys, args); err != nil {
			s.mu.Lock()
			s.unsure = append(s.unsure, list...)
			s.mu.Unlock()
			return fmt.Errorf("claims: hand back %d claims whose answer was lost: %w", n, err)
		}
		list = list[n:]
	}
	return nil
}

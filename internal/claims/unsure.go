package claims

// Claims whose answer was lost. Redis may have granted them in this owner's
// name, nothing was started under them, and while the owner beats nobody else
// may run them: so they are handed back, by the token of the call, as soon as
// Redis answers again.

import (
	"context"
	"fmt"
)

type unsure struct{ owner, token, taskID string }

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
		keys := append(make([]string, 0, n+1), s.k.inc)
		args := append(make([]any, 0, 3+2*n), inc.token, list[0].owner, s.cfg.Horizon.Milliseconds())
		for _, u := range list[:n] {
			keys = append(keys, s.k.claim(u.taskID))
			args = append(args, "k", u.token)
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

package replayer

// What a policy's last act came to: whether it goes on, waits, or switches itself off.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/schemas"
)

// judge looks at what the last replay came to. waits says that it is not known
// yet: until then the policy does nothing else. A replay of which every letter was
// refused is no strike, and clears none: nothing moved.
func (p *Policies) judge(ctx context.Context, pol *schemas.Policy, s *standing) (waits bool, err error) {
	if s.judged || s.replay == nil {
		return false, nil
	}
	r, err := p.jobs.glance(ctx, *s.replay)
	if errors.Is(err, ErrNoReplay) {
		return false, p.conclude(ctx, pol, s, "", "", false)
	}
	if err != nil {
		return false, err
	}
	bad, off := "", ""
	switch {
	case r.State == Approved:
		return true, p.begin(ctx, pol, s, r.ID)
	case !r.State.Over():
		return true, p.sayWaits(ctx, pol, s, r)
	case r.Became.UnderWay > 0 && time.Since(r.ChangedAt) < p.cfg.Patience:
		return true, nil
	case r.State == Cancelled:
		off = fmt.Sprintf("a person cancelled its replay %s", r.ID)
	case r.State == Stopped:
		bad = fmt.Sprintf("its replay %s stopped itself: %s", r.ID, r.Note)
	case r.Became.DiedAgain > r.Became.Completed:
		bad = fmt.Sprintf("of its replay %s %d died again and %d completed", r.ID, r.Became.DiedAgain, r.Became.Completed)
	}
	return false, p.conclude(ctx, pol, s, bad, off, r.Replayed > 0)
}

// begin starts a replay that a person approved. One whose letters changed
// meanwhile is given up, and planned anew.
func (p *Policies) begin(ctx context.Context, pol *schemas.Policy, s *standing, id string) error {
	who := "policy:" + pol.Name
	err := p.jobs.Start(ctx, id, who, "approved")
	var changed *ChangedError
	if !errors.As(err, &changed) {
		return err
	}
	// First: a replay that is cancelled before it was judged is a person's doing.
	if err := p.conclude(ctx, pol, s, "", "", false); err != nil {
		return err
	}
	return p.jobs.Cancel(ctx, id, who, changed.Error())
}

// sayWaits says that a person holds the policy's replay up, and that nobody does any more.
func (p *Policies) sayWaits(ctx context.Context, pol *schemas.Policy, s *standing, r *Replay) error {
	switch {
	case r.Approval != "" && r.ApprovedBy == "":
		return p.say(ctx, pol, s, fmt.Sprintf("waits for approval of %s: %s", r.ID, r.Approval))
	case r.State == Paused:
		return p.say(ctx, pol, s, fmt.Sprintf("waits: its replay %s is paused", r.ID))
	case s.told != "":
		return p.say(ctx, pol, s, fmt.Sprintf("its replay %s goes on", r.ID))
	}
	return nil
}

const concludeAct = `
update perdure.policies set judged = true, strikes = $2, enabled = enabled and $3 = '',
  note = case when $3 <> '' then $3 when $4 <> '' then $4 else note end, changed_at = clock_timestamp() where policy = $1 and judged = $5`

// conclude ends an act: bad makes it a strike, off switches the policy off.
func (p *Policies) conclude(ctx context.Context, pol *schemas.Policy, s *standing, bad, off string, moved bool) error {
	switch {
	case bad != "":
		if s.strikes++; s.strikes >= pol.Strikes {
			off = fmt.Sprintf("it made nothing better %d times in a row; the last: %s", s.strikes, bad)
		}
	case moved:
		s.strikes = 0
	}
	was := s.judged
	s.judged, s.enabled = true, s.enabled && off == ""
	err := pgx.BeginFunc(ctx, p.deps.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, concludeAct, pol.Name, s.strikes, off, bad, was)
		if err == nil && tag.RowsAffected() == 0 {
			off = "" // a person let it act meanwhile, and knew of the replay
		}
		if err != nil || off == "" {
			return err
		}
		return note(ctx, tx, "perdure", "policy.disable", "", off, map[string]any{"policy": pol.Name})
	})
	if off != "" && err == nil {
		p.log.Error("policy switched itself off: "+off, "policy", pol.Name, "next", "perdure policy enable "+pol.Name)
	}
	return err
}

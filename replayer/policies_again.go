package replayer

// When a policy need not look at its groups: nothing of them has changed, and none
// becomes due by the clock. With many groups a look reads much.

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Open letters as the counts of groups have them: nearly whatever makes a group match
// otherwise than before changes them (not a death that is not the latest, with another
// letter's end; lookAnyway finds it).
const openLetters = `
select coalesce(sum(n) || ' ' || sum(n * hashtextextended(fingerprint || kind || reason, 0)::numeric) || ' ' || max(last_seen), '-')
from perdure.group_rows where state = 'open'`

const (
	lookAnyway = time.Minute // at letters that rest, for one
	lookShare  = 10          // a look waits for so many times as long as the last took, at most for
	lookPause  = 5 * time.Minute
)

// looked is what a policy's last look came to.
type looked struct {
	as    string    // the letters and the policy, as they were
	until time.Time // nothing is due before
	not   time.Time // no look before
}

// letters is what openLetters gives, asked once for all policies; "" = not known.
func (p *Policies) letters(ctx context.Context) string {
	var s string
	if err := p.deps.DB.QueryRow(ctx, openLetters).Scan(&s); err != nil {
		return "" // then each policy looks, and says what is wrong
	}
	return s
}

func (p *Policies) as(pol *schemas.Policy, s *standing) string {
	return fmt.Sprint(p.open, s.changed.UnixNano(), s.strikes, s.judged, digest(pol))
}

// unchanged reports whether a look would find what the last one found: nothing to do.
func (p *Policies) unchanged(pol *schemas.Policy, s *standing, now time.Time) bool {
	l, ok := p.last[pol.Name]
	return ok && p.open != "" && (now.Before(l.not) || now.Before(l.until) && l.as == p.as(pol, s))
}

// found keeps what a look found that began at began.
func (p *Policies) found(pol *schemas.Policy, s *standing, groups []PolicyGroup, began time.Time) {
	now := time.Now()
	l := looked{as: p.as(pol, s), until: began.Add(lookAnyway), not: now.Add(min(lookShare*now.Sub(began), lookPause))}
	for i := range groups {
		switch g := &groups[i]; {
		case g.Waits == "" || g.again:
			l.until = began // it acts, or waits for what no count tells
		case g.due > 0 && began.Add(g.due).Before(l.until):
			l.until = began.Add(g.due)
		}
	}
	p.last[pol.Name] = l
}

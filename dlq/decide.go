package dlq

// What people decide of letters without a run: that nobody wants them, that a
// person must look at them first, that they may go on.

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/schemas"
)

// LetterSelector says which letters are meant. Fields are joined by and; a LetterSelector
// without any must say All.
type LetterSelector struct {
	IDs    []string  `json:"ids,omitempty" maxItems:"10000" doc:"letters (<task id>@<epoch>) or task ids"`
	Group  string    `json:"group,omitempty" doc:"fingerprint of a failure group"`
	Kind   string    `json:"kind,omitempty"`
	Queue  string    `json:"queue,omitempty"`
	Reason string    `json:"reason,omitempty" enum:"permanent,exhausted,expired,poison,undecodable,schema,unknown_kind,too_large,unknown,blocked"`
	Key    string    `json:"key,omitempty"`
	Since  time.Time `json:"since,omitzero" doc:"died at or after"`
	Until  time.Time `json:"until,omitzero" doc:"died before"`
	All    bool      `json:"all,omitempty" doc:"every letter"`
}

func (s *LetterSelector) empty() bool {
	return len(s.IDs) == 0 && s.Group+s.Kind+s.Queue+s.Reason+s.Key == "" && s.Since.IsZero() && s.Until.IsZero() && !s.All
}

// A Decision is what may be done with letters.
type Decision struct {
	name string
	from []schemas.LetterState
	to   schemas.LetterState
	by   string // resolved_by
}

// The decisions. A letter that is being replayed takes none: its replay is
// cancelled first, or comes to an end.
var (
	Discard = Decision{name: "discard", from: []schemas.LetterState{schemas.LetterOpen, schemas.LetterHeld}, to: schemas.LetterDiscarded, by: "discard"}
	Hold    = Decision{name: "hold", from: []schemas.LetterState{schemas.LetterOpen}, to: schemas.LetterHeld}
	Release = Decision{name: "release", from: []schemas.LetterState{schemas.LetterHeld}, to: schemas.LetterOpen}
)

// most is how many letters one transaction decides of: they are locked, and the
// head of the audit with them, until it commits.
const most = 1000

// Letters are found by what was asked, then locked in one order, the letter's, as
// the replayer and the index lock them; whoever came first wins. Those that wait
// behind another of their key (reason blocked) are held, and are discarded or left:
// only their lift lets them go, so a release, which is of held ones alone, passes them.
const chosen = `
c as materialized (
  select s.letter from perdure.letter_states s join perdure.letters t on t.letter = s.letter
  where s.state = any($1) and ($2::text[] is null or t.letter = any($2) or t.task_id = any($2))
    and ($3 = '' or s.fingerprint = perdure.group_of($3)) and ($4 = '' or s.kind = $4) and ($5 = '' or s.queue = $5) and ($6 = '' or s.reason = $6) and ($7 = '' or t.key = $7)
    and (s.reason <> 'blocked' or 'open' = any($1))
    and ($8::timestamptz is null or s.died_at >= $8) and ($9::timestamptz is null or s.died_at < $9)
  limit $10)`

const countLetters = `with ` + chosen + ` select count(*) from c`

// A discarded task has ended, and the unique key that it held until then is free with
// its letter. An undecodable letter only claims to be a task's.
const decideLetters = `with ` + chosen + `,
l as materialized (select letter from perdure.letter_states where letter in (select letter from c) order by letter for update),
u as (
  update perdure.letter_states d set state = $11, resolved_by = $12, changed_at = clock_timestamp()
  from l join perdure.letters t on t.letter = l.letter where d.letter = l.letter and d.state = any($1) returning d.letter, t.task_id, d.reason),
a as (insert into perdure.audit (who, what, letter, why, origin) select $13, $14, letter, $15, perdure.audit_origin($16) from u order by letter returning 1)
select (select count(*) from c), (select count(*) from a),
  (select perdure.release_unique(array_agg(task_id) filter (where reason <> 'undecodable')) from u where $11 = 'discarded')`

func (s *LetterSelector) args(d Decision, limit int) []any {
	from := make([]string, len(d.from))
	for i, state := range d.from {
		from[i] = string(state)
	}
	return []any{from, s.IDs, s.Group, s.Kind, s.Queue, s.Reason, s.Key, timeOrNil(s.Since), timeOrNil(s.Until), limit}
}

// Matching returns how many letters a decision would be of, at most limit.
func (s *Letters) Matching(ctx context.Context, d Decision, sel *LetterSelector, limit int) (n int, err error) {
	if err := s.db.QueryRow(ctx, countLetters, sel.args(d, limit)...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count letters to %s: %w", d.name, err)
	}
	return n, nil
}

// Decide decides of at most limit letters, some at a time, each with its row in
// the audit, and returns of how many. Fewer than limit: no other matches. What an
// error leaves decided stays so.
func (s *Letters) Decide(ctx context.Context, d Decision, sel *LetterSelector, who, why string, limit int) (n int, err error) {
	for n < limit {
		args := append(sel.args(d, min(limit-n, most)), string(d.to), d.by, who, "letter."+d.name, why, api.Caller(ctx))
		var found, decided, freed int // others may decide of what was found first
		if err := s.db.QueryRow(ctx, decideLetters, args...).Scan(&found, &decided, &freed); err != nil {
			return n, fmt.Errorf("%s letters: %w", d.name, err)
		}
		if found == 0 {
			break
		}
		n += decided
	}
	return n, nil
}

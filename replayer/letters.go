package replayer

// The letters of a replay, one by one: what became of each.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ReplayLetter is a letter of a replay, and what became of it there.
type ReplayLetter struct {
	N          int64      `json:"n" doc:"its place in the replay's order"`
	Letter     string     `json:"letter"`
	Kind       string     `json:"kind,omitempty"`
	Key        string     `json:"key,omitempty"`
	DiedAt     *time.Time `json:"died_at,omitempty" doc:"absent = the letter is not in the index, or not any more"`
	ErrorClass string     `json:"error_class,omitempty"`
	Message    string     `json:"message,omitempty"`
	Result     string     `json:"result" enum:"left,replayed,refused,would_replay"`
	Why        string     `json:"why,omitempty" doc:"it was refused"`
	At         *time.Time `json:"at,omitempty" doc:"when it was replayed or refused"`
	Outcome    string     `json:"outcome,omitempty" doc:"of its task: completed, died_again, or cancelled; absent = not known yet"`
	Group      string     `json:"group,omitempty" doc:"fingerprint that its task died of again"`
	OutcomeAt  *time.Time `json:"outcome_at,omitempty"`
}

// Order is the order of a replay's letters, in words.
const Order = "oldest death first, of each key too; of two at once the lesser id"

const (
	someLetters = `
select l.n, l.letter, coalesce(d.kind, ''), coalesce(d.key, ''), d.died_at, coalesce(d.error_class, ''), coalesce(d.message, ''),
  case l.result when '' then 'left' else l.result end, case l.result when 'refused' then l.detail else '' end, l.done_at, l.outcome, l.fingerprint, l.outcome_at
from (select * from perdure.replay_letters where replay = $1 and n > $2`
	someLettersEnd = ` order by n limit $3) l
left join lateral (select kind, key, died_at, error_class, message from perdure.letters where letter = l.letter offset 0) d on true
order by l.n`
)

// lettersOf are the statements for what may be asked; each has an index.
var lettersOf = map[string]string{
	"":           someLetters + someLettersEnd,
	"left":       someLetters + ` and n > (select done_to from perdure.replays where replay = $1) and result = ''` + someLettersEnd,
	"refused":    someLetters + ` and detail <> '' and result = 'refused'` + someLettersEnd,
	"died_again": someLetters + ` and fingerprint <> '' and outcome = 'died_again'` + someLettersEnd,
}

// Letters returns at most limit letters of a replay behind the place after, in its
// order: all, or those that are left, refused, or died_again. ErrNoReplay.
func (j *Jobs) Letters(ctx context.Context, id, which string, after int64, limit int) ([]ReplayLetter, error) {
	if _, err := j.glance(ctx, id); err != nil {
		return nil, err
	}
	query, ok := lettersOf[which]
	if !ok {
		return nil, fmt.Errorf("replay %s: no letters are %q", id, which)
	}
	rows, err := j.db.Query(ctx, query, plannedEachTime, id, after, limit)
	if err != nil {
		return nil, fmt.Errorf("letters of replay %s: %w", id, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ReplayLetter])
	if err != nil {
		return nil, fmt.Errorf("letters of replay %s: %w", id, err)
	}
	return list, nil
}

// withFirst adds a plan's first letters to it, before anything of it has moved.
func (j *Jobs) withFirst(ctx context.Context, r *Replay) (err error) {
	if r.Replayed > 0 && !r.DryRun || r.State.Moving() {
		return nil
	}
	r.First, err = j.Letters(ctx, r.ID, "", 0, Samples)
	return err
}

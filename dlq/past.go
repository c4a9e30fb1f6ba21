package dlq

// What replays did with a task's letters before: its past, of one letter alone.

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/jsondiff"
)

// PastReplay is what one replay did with a letter of a task.
type PastReplay struct {
	Replay     string     `json:"replay"`
	Letter     string     `json:"letter"`
	Who        string     `json:"who"`
	Result     string     `json:"result" enum:"left,replayed,refused"`
	Why        string     `json:"why,omitempty" doc:"why it was refused, else why the replay was made"`
	At         *time.Time `json:"at,omitempty" doc:"when it was replayed or refused"`
	Outcome    string     `json:"outcome,omitempty" doc:"completed, died_again or cancelled; absent = not known yet"`
	Repair     int        `json:"repair,omitempty" doc:"its payload was repaired, the task's so many-th time: its idempotency key is <task id>-r<repair>"`
	RepairDiff string     `json:"repair_diff,omitempty" doc:"unified diff of the letter's payload and the repaired one; needs the verb read-payload"`
}

// mostPast bounds what is shown of a task's past, the latest first.
const mostPast = 20

// The replays of dry runs did nothing; nor did those that are over with what they left.
const pastOf = `
select l.replay, l.letter, r.who, case l.result when '' then 'left' else l.result end, case l.result when 'refused' then l.detail else r.why end,
  l.done_at, l.outcome, coalesce(f.repair, 0), d.payload, f.payload
from (select letter, payload from perdure.letters where case when $2 = '' then letter = $1 else task_id = $2 end) d
join perdure.replay_letters l on l.letter = d.letter
join perdure.replays r on r.replay = l.replay and not r.dry_run and (l.result <> '' or r.state not in ('done', 'stopped', 'cancelled'))
left join perdure.replay_fixes f on f.replay = l.replay and f.n = l.n and f.moved
order by l.done_at desc nulls first, r.created_at desc limit $3`

// past is what replays did with the letters of a letter's task; with what they made
// of payloads if whole.
func (s *Letters) past(ctx context.Context, e *Entry, whole bool) ([]PastReplay, error) {
	rows, err := s.db.Query(ctx, pastOf, e.Letter, e.TaskID, mostPast)
	if err != nil {
		return nil, fmt.Errorf("replays of %s: %w", e.Letter, err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (p PastReplay, err error) {
		var before, after []byte
		err = r.Scan(&p.Replay, &p.Letter, &p.Who, &p.Result, &p.Why, &p.At, &p.Outcome, &p.Repair, &before, &after)
		if whole && after != nil {
			p.RepairDiff = jsondiff.Lines(before, after)
		}
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("replays of %s: %w", e.Letter, err)
	}
	return list, nil
}

// cuts says what of a letter was too large to be kept, "" for nothing.
func cuts(e *Entry) string {
	var attempts []Attempt
	left, texts := 0, strings.HasSuffix(e.Message, cutMark)
	if json.Unmarshal(e.Attempts, &attempts) == nil {
		for _, a := range attempts {
			left += a.Cut
			texts = texts || strings.HasSuffix(a.Message, cutMark) || strings.HasSuffix(a.Stack, cutMark)
		}
	}
	var all []string
	if e.Cut {
		all = append(all, "the original was too large to be kept whole, so it cannot be replayed")
	}
	if left > 0 {
		all = append(all, fmt.Sprintf("%d attempts were left out: all of them were too large", left))
	}
	if texts {
		all = append(all, fmt.Sprintf("an error's text that ends in%s was longer: messages are kept up to %d KiB, stacks up to %d", cutMark, MaxMessage>>10, maxStack>>10))
	}
	return strings.Join(all, "; ")
}

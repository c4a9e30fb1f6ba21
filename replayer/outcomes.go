package replayer

// What became of replayed letters: the index writes it down where it settles a
// letter, a replayer counts it, whatever state the replay is in.

import (
	"context"
	"fmt"
)

// One replay at a time, its row first: as every statement that moves letters
// does, so that no two of them wait for each other.
const countOutcomes = `
with j as materialized (
  select replay from perdure.replays where replay = (select replay from perdure.replay_outcomes order by replay, n limit 1) for update),
i as materialized (
  select replay, n from perdure.replay_outcomes where replay = (select replay from j) order by n limit $1),
q as (
  delete from perdure.replay_outcomes o using i where o.replay = i.replay and o.n = i.n
  returning o.replay, o.n, o.outcome, o.fingerprint, o.same, o.at),
u as (
  update perdure.replay_letters l set outcome = q.outcome, fingerprint = q.fingerprint, outcome_at = q.at
  from q where l.replay = q.replay and l.n = q.n and l.outcome = '' returning l.n, q.outcome, q.same),
c as (
  update perdure.replays r set completed = r.completed + s.completed, died_again = r.died_again + s.died, died_same = r.died_same + s.same, other = r.other + s.other
  from j, (select count(*) filter (where outcome = 'completed') as completed, count(*) filter (where outcome = 'died_again') as died,
    count(*) filter (where outcome = 'died_again' and same) as same, count(*) filter (where outcome not in ('completed', 'died_again')) as other from u) s
  where r.replay = j.replay)
select count(*) from q`

// outcomesAtOnce bounds one statement.
const outcomesAtOnce = 2000

// outcomes counts what came in. more says that there may be more.
func (r *Replayer) outcomes(ctx context.Context) (more bool, err error) {
	var n int
	if err := r.deps.DB.QueryRow(ctx, countOutcomes, outcomesAtOnce).Scan(&n); err != nil {
		return false, fmt.Errorf("count outcomes: %w", err)
	}
	return n > 0, nil
}

package replayer

// Letters of a slice move in parts, several at once: what a letter costs is
// Postgres's work on its row, and one session uses one core.

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// beside is how many parts move at once; leastPart is what a part is worth.
const (
	beside    = 2
	leastPart = 100
)

var partSeed = maphash.MakeSeed()

// moveBeside is move in parts. Letters of one key are in one part, and no part begins
// before those of the slice before it are committed: a key's letters go in their order,
// whatever overtakes them.
func (r *Replayer) moveBeside(ctx context.Context, j *job, list []*letter) (went int, refused []*letter, err error) {
	if len(list) < beside*leastPart || j.state == InCanary {
		return r.move(ctx, j, list)
	}
	var parts, back [beside][]*letter
	var moved [beside]int
	for _, l := range list {
		i := maphash.Bytes(partSeed, l.key) % beside
		parts[i] = append(parts[i], l)
	}
	all, ctx := errgroup.WithContext(ctx)
	for i, part := range parts {
		if len(part) == 0 {
			continue
		}
		all.Go(func() (err error) {
			moved[i], back[i], err = r.move(ctx, j, part)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return 0, nil, err
	}
	for i, part := range back {
		went, refused = went+moved[i], append(refused, part...)
	}
	return went, refused, nil
}

// The job's row is locked from countMoved until the commit, so that nothing moves any
// more once Pause or Cancel has answered; the audit's chain after it, as they do. Of a
// canary it is locked before, so that two processes that both believe to hold the job
// send no more than its letters: no two parts of a canary move at once.
const (
	lockCanary = `select from perdure.replays where replay = $1 and state = 'canary' for update`
	countMoved = `
with c as (
  update perdure.replays set replayed = replayed + cardinality($2::text[]), tokens = case when $4 then tokens - cardinality($2) else tokens end, changed_at = clock_timestamp(),
    canary_at = case when state = 'canary' and replayed + cardinality($2) >= $5 then clock_timestamp() else canary_at end
  where replay = $1 and (state in ('ramping', 'running') or $6 and state = 'canary') returning replay, hash)
insert into perdure.audit (who, what, replay, why, details)
select $7, 'letters.replay', replay, $8, jsonb_build_object('hash', hash, 'letters', (select jsonb_object_agg(letter, id) from unnest($2, $3::bigint[]) u(letter, id))) from c`
)

// oneByOne begins a transaction that moves letters: rows are fetched where they were read
// and locked in their order, whatever Postgres thinks of the sizes of tables.
const oneByOne = `begin; set local enable_hashjoin = off; set local enable_mergejoin = off; set local enable_seqscan = off`

// statements are those by which letters move; tests break them.
type statements struct{ move, count string }

var (
	errNotMoving = errors.New("the job does not move letters now")
	errMarked    = errors.New("a rival has marked a letter meanwhile")
)

// commitMove moves letters and counts them, and returns which of the job's did; none
// where it was paused or ended, or a rival marked one of them, meanwhile.
func (r *Replayer) commitMove(ctx context.Context, j *job, args ...any) (moved []int64, err error) {
	canary := j.state == InCanary
	err = pgx.BeginTxFunc(ctx, r.deps.DB, pgx.TxOptions{BeginQuery: oneByOne}, func(tx pgx.Tx) error {
		if canary {
			if _, err := tx.Exec(ctx, lockCanary, j.id); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, r.sql.move, append([]any{plannedEachTime}, args...)...)
		if err != nil {
			return err
		}
		var letters []string
		var ids []int64
		var n, id int64
		var letter string
		var marked int
		if _, err := pgx.ForEachRow(rows, []any{&n, &letter, &id, &marked}, func() error {
			moved, letters, ids = append(moved, n), append(letters, letter), append(ids, id)
			return nil
		}); err != nil || len(moved) == 0 {
			return err
		}
		if marked != len(moved) {
			return errMarked
		}
		tag, err := tx.Exec(ctx, r.sql.count, j.id, letters, ids, j.spec.Rate > 0, j.spec.Canary.Letters, canary, j.who, j.why)
		if err == nil && tag.RowsAffected() == 0 {
			err = errNotMoving
		}
		return err
	})
	if errors.Is(err, errNotMoving) || errors.Is(err, errMarked) {
		return nil, nil // what was to move is looked at again
	}
	if err != nil {
		return nil, fmt.Errorf("move %d letters: %w", len(moved), err)
	}
	return moved, nil
}

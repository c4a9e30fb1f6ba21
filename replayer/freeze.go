package replayer

// Freezing with a condition: letters are read through a cursor, and those that
// match are written in slices, so that memory stays flat.

import (
	"context"
	"fmt"

	"github.com/itchyny/gojq"
	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
)

// filter takes the letters for which its condition is true.
type filter struct{ code *gojq.Code }

// whereSlice bounds what is read at once; payloads can be 1 MiB each.
const whereSlice = 50

func (f *filter) freeze(ctx context.Context, tx pgx.Tx, id, query string, args []any, limit int) error {
	if _, err := tx.Exec(ctx, `declare letters no scroll cursor for `+query, args...); err != nil {
		return err
	}
	n := 0
	for n < limit {
		rows, err := tx.Query(ctx, fmt.Sprintf(`fetch %d from letters`, whereSlice))
		if err != nil {
			return err
		}
		var seen int
		var found []string
		var c candidate
		if _, err := pgx.ForEachRow(rows, []any{&c.Letter, &c.TaskID, &c.Kind, &c.Queue, &c.Key, &c.Reason, &c.ErrorClass, &c.Message,
			&c.Fingerprint, &c.Release, &c.Epoch, &c.Replays, &c.DiedAt, &c.Payload, &c.Headers}, func() error {
			seen++
			yes, err := matches(ctx, f.code, c.document())
			if err != nil {
				return &SpecError{[]api.FieldError{{Pointer: "#/where", Detail: fmt.Sprintf("%s (%v)", c.Letter, err)}}}
			}
			if yes && n+len(found) < limit {
				found = append(found, c.Letter)
			}
			return nil
		}); err != nil {
			return err
		}
		if len(found) > 0 {
			if _, err := tx.Exec(ctx, `insert into perdure.replay_letters (replay, letter, n)
select $1, letter, $3 + n from unnest($2::text[]) with ordinality u(letter, n)`, id, found, n); err != nil {
				return err
			}
			n += len(found)
		}
		if seen == 0 {
			break
		}
	}
	_, err := tx.Exec(ctx, `close letters`)
	return err
}

package replayer

// Freezing with a condition: letters are read through a cursor, and those that
// match are written in slices, so that memory stays flat.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/jqchild"
)

// filter takes the letters for which its condition is true.
type filter struct{ child *jqchild.Child }

// errNoJQ: only the programs of Perdure know how to start the process.
var errNoJQ = errors.New("this process cannot run jq: it was not started as `perdure dispatcher`, `perdure replayer` or `perdure up`")

// filter is nil for no condition.
func (j *Jobs) filter(where string) (*filter, error) {
	if where == "" {
		return nil, nil
	}
	if _, err := dlq.CompileJQ("#/where", where); err != nil {
		return nil, err
	}
	if len(j.jq) == 0 {
		return nil, errNoJQ
	}
	return &filter{jqchild.New(j.jq, dlq.Condition(where), len("false"))}, nil
}

func (f *filter) close() {
	if f != nil {
		f.child.Close()
	}
}

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
		var ids []string
		var docs [][]byte
		var c candidate
		if _, err := pgx.ForEachRow(rows, []any{&c.Letter, &c.TaskID, &c.Kind, &c.Queue, &c.Key, &c.Reason, &c.ErrorClass, &c.Message,
			&c.Fingerprint, &c.Release, &c.Epoch, &c.Replays, &c.DiedAt, &c.Payload, &c.Headers}, func() error {
			doc, err := json.Marshal(c.Document())
			ids, docs = append(ids, c.Letter), append(docs, doc)
			return err
		}); err != nil {
			return err
		}
		var found []string
		if err := f.child.RunAll(ctx, docs, func(i int, value []byte, err error) error {
			yes, err := dlq.Matches(value, err)
			if err != nil && ctx.Err() == nil {
				return &SpecError{[]api.FieldError{{Pointer: "#/where", Detail: fmt.Sprintf("%s (%v)", ids[i], err)}}}
			}
			if yes && n+len(found) < limit {
				found = append(found, ids[i])
			}
			return err
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
		if len(ids) == 0 {
			break
		}
	}
	_, err := tx.Exec(ctx, `close letters`)
	return err
}

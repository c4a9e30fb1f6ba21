package dlq

// What was decided of letters that the index lost: people's, plans' and policies'
// acts are in the audit, also where the letters' rows are gone. A letter that
// somebody discarded must not come back as an open one, which a policy may replay.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What was last done with each letter, and how often it was replayed.
const gatherDecided = `
create temp table perdure_decided as
select letter, (array_agg(what order by place desc))[1] as what, (count(*) filter (where what in ('letters.replay', 'letters.release')))::int as replays from (
  select place, what, letter from perdure.audit where what in ('letter.discard', 'letter.hold', 'letter.release', 'letter.resolve') and letter is not null
  union all
  select place, what, jsonb_array_elements_text(details->'letters') from perdure.audit where what in ('letters.hold', 'letters.release')
  union all
  select place, what, jsonb_object_keys(details->'letters') from perdure.audit where what = 'letters.replay') a
group by letter;
create index on perdure_decided (letter);
analyze perdure_decided`

// Only rows that this transaction inserted: their indexed_at is after its start, and
// nobody has seen them yet. One that waits behind another of its key was inserted as
// held: if it was discarded, or a lift let it go (letters.release), no lift may take it.
const restoreDecided = `
update perdure.letter_states d set replays = c.replays,
  state = case c.what when 'letter.discard' then 'discarded' when 'letter.hold' then 'held' when 'letters.hold' then 'held'
    when 'letters.replay' then 'replaying' when 'letters.release' then 'replaying' when 'letter.resolve' then 'resolved' else d.state end,
  resolved_by = case c.what when 'letter.discard' then 'discard' when 'letter.resolve' then 'completed' else '' end
from perdure_decided c join perdure.letters l on l.letter = c.letter
where c.letter = d.letter and d.letter = any($1::text[]) and l.indexed_at >= now() and d.replays = 0
  and (d.state = 'open' or d.state = 'held' and d.reason = 'blocked')`

// session is a connection that knows what was decided.
type session struct {
	conn *pgxpool.Conn
	lost context.CancelCauseFunc // what it knew is gone with it
}

// Begin implements beginner.
func (s *session) Begin(ctx context.Context) (pgx.Tx, error) {
	tx, err := s.conn.Begin(ctx)
	if err != nil && s.conn.Conn().IsClosed() {
		s.lost(fmt.Errorf("the connection to Postgres broke: begin again, what is restored stays: %w", err))
	}
	return tx, err
}

// deciding returns an index that writes to the same database, and gives letters that
// are new to it the state that the audit knows. Its ctx ends, with a cause, when its
// session is lost. It needs a session of its own: no transaction pooler.
func (x *Index) deciding(ctx context.Context) (*Index, context.Context, func(), error) {
	conn, err := x.deps.DB.Acquire(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	end := func() {
		cancel(nil)
		_ = conn.Hijack().Close(context.WithoutCancel(ctx)) // and the table with it
	}
	if _, err := conn.Exec(ctx, gatherDecided, pgx.QueryExecModeSimpleProtocol); err != nil {
		end()
		return nil, nil, nil, fmt.Errorf("read from the audit what was decided: %w", err)
	}
	y := *x
	y.session = &session{conn, cancel}
	return &y, ctx, end, nil
}

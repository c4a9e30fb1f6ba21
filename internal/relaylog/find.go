package relaylog

// Looking up what became of one outbox id.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Batch is one row of the relay log, its hops excepted.
type Batch struct {
	Batch     int64 // number of the batch, growing with time
	Shard     string
	RelayedAt time.Time // database's clock
	FirstID   int64     // lowest id of the batch
	LastID    int64     // highest id; ids between the two may be of other batches
	Tasks     int       // rows that were new tasks
	Replays   int       // rows that were replays
}

// Querier is what Find needs of a pool, a connection or a transaction of pgx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Batches may overlap: late commits and scheduled rows go out with later ids.
// The GiST index on the range finds all that can hold an id.
const findSQL = `
select batch, shard, relayed_at, first_id, last_id, tasks, replays, hops
from perdure.relay_log
where int8range(first_id, last_id, '[]') @> $1::bigint
order by batch`

// Find returns where the outbox row with this id went, and with which batch. ok
// is false when the log has no hop for it: not relayed yet, filed as scheduled or
// parked, or older than what is kept. The cursor's fence lets an id be logged
// once; were it logged twice, the first is returned.
//
// A replay's outbox row has an id of its own: ask by that, not by the task's seq.
func Find(ctx context.Context, db Querier, seq int64) (Hop, Batch, bool, error) {
	rows, err := db.Query(ctx, findSQL, seq)
	if err != nil {
		return Hop{}, Batch{}, false, fmt.Errorf("relay log: looking for outbox id %d: %w", seq, err)
	}
	defer rows.Close()
	for rows.Next() {
		var b Batch
		var hops []byte
		if err := rows.Scan(&b.Batch, &b.Shard, &b.RelayedAt, &b.FirstID, &b.LastID, &b.Tasks, &b.Replays, &hops); err != nil {
			return Hop{}, Batch{}, false, fmt.Errorf("relay log: looking for outbox id %d: %w", seq, err)
		}
		h, ok, err := lookup(hops, seq)
		if err != nil {
			return Hop{}, Batch{}, false, fmt.Errorf("relay log: batch %d: %w", b.Batch, err)
		}
		if ok {
			return h, b, true, nil
		}
	}
	if err := rows.Err(); err != nil {
		return Hop{}, Batch{}, false, fmt.Errorf("relay log: looking for outbox id %d: %w", seq, err)
	}
	return Hop{}, Batch{}, false, nil
}

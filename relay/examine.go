package relay

// What a relay that began now would find, without being one.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The cursor as takeCursor returns it, where there is one.
const lookCursor = `
select c.prev::text, c.upto is not null, c.at_id, c.system_id, c.database, c.timeline,
  greatest(pg_snapshot_xmax(c.prev), pg_snapshot_xmax(coalesce(c.upto, c.prev))) > pg_snapshot_xmax(pg_current_snapshot())
from perdure.relay_cursor c where c.shard = $1`

// examineKafka bounds how long Examine waits for Kafka.
const examineKafka = 5 * time.Second

// Examine returns the *HaltError that a relay of cfg.Source would stop with now,
// nil if none, or what a server said. It takes no lease and changes nothing. It
// does not look for a pooler: the relay has an address of its own for that.
func Examine(ctx context.Context, cfg Config, deps Deps) error {
	r := &Relay{cfg: cfg, deps: deps}
	conn, err := deps.DB.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer conn.Release()
	var recovery bool
	if err := conn.QueryRow(ctx, `select pg_is_in_recovery()`).Scan(&recovery); err != nil {
		return fmt.Errorf("postgres: ask whether it is a standby: %w", err)
	}
	if recovery {
		return haltStandby()
	}
	is, err := r.whoIs(ctx, conn)
	if err != nil {
		return err
	}
	var c cursor
	err = conn.QueryRow(ctx, lookCursor, cfg.Source).Scan(&c.prev, &c.held, &c.atID, &c.systemID, &c.database, &c.timeline, &c.ahead)
	switch {
	case errors.Is(err, pgx.ErrNoRows): // nobody has relayed yet
	case err != nil:
		return fmt.Errorf("postgres: read the relay's cursor: %w", err)
	default:
		if err := checkCursor(is, c); err != nil {
			return err
		}
	}
	cl, err := kgo.NewClient(deps.Kafka...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, examineKafka)
	defer cancel()
	known, err := r.readControl(ctx, kadm.NewClient(cl))
	if err != nil {
		return err
	}
	return checkControl(is, known, 0)
}

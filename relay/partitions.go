package relay

// Partitions of the outbox: made ahead of the sequence, emptied behind the
// history. All of it happens between passes, in the goroutine that reads, and
// waits for locks only for moments: what cannot be had now is tried again later.

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	partitionSize   = 1_000_000 // ids
	partitionsAhead = 16        // complete ones, above the sequence
	lockWait        = 50 * time.Millisecond
	perUpkeep       = 4 // partitions made or emptied at a time, so that no pass waits for long
)

// A leaf's name and bounds. Bounds are read from the catalog's text of them:
// FOR VALUES FROM ('0') TO ('1000000').
const listLeaves = `
select c.relname, coalesce(pg_get_expr(c.relpartbound, c.oid), '')
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'perdure.outbox'::regclass`

var bounds = regexp.MustCompile(`^FOR VALUES FROM \('(\d+)'\) TO \('(\d+)'\)$`)

type leaf struct {
	name   string
	lo, hi int64 // ids lo ≤ id < hi
}

func (t *term) leaves(ctx context.Context) ([]leaf, error) {
	rows, err := t.conn.Query(ctx, listLeaves)
	if err != nil {
		return nil, fmt.Errorf("postgres: list the outbox's partitions: %w", err)
	}
	defer rows.Close()
	var out []leaf
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return nil, fmt.Errorf("postgres: list the outbox's partitions: %w", err)
		}
		m := bounds.FindStringSubmatch(text)
		if m == nil {
			continue // the default partition
		}
		lo, _ := strconv.ParseInt(m[1], 10, 64) // digits of a bigint, by the pattern
		hi, _ := strconv.ParseInt(m[2], 10, 64)
		out = append(out, leaf{name, lo, hi})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("postgres: list the outbox's partitions: %w", err)
	}
	return out, nil
}

const outboxEnd = `
select (select last_value from perdure.outbox_id_seq),
  coalesce((select max(id) from perdure.outbox_overflow), 0)`

// lookAfterPartitions makes and empties what is due. Locks that are not free
// are no error. The relay's role must own the outbox to do it.
func (t *term) lookAfterPartitions(ctx context.Context) error {
	var sequence, overflow int64
	if err := t.conn.QueryRow(ctx, outboxEnd).Scan(&sequence, &overflow); err != nil {
		return fmt.Errorf("postgres: ask where the outbox ends: %w", err)
	}
	if overflow > sequence {
		t.r.log.Error("the outbox has rows with ids that its sequence has not given: they are not relayed, insert them without ids",
			"highest", overflow, "sequence", sequence)
	}
	leaves, err := t.leaves(ctx)
	if err != nil {
		return err
	}
	if err := t.makeAhead(ctx, leaves, sequence, overflow); err != nil {
		return err
	}
	return t.emptyBehind(ctx, leaves, sequence)
}

// makeAhead makes partitions until partitionsAhead lie above the sequence. A
// range that ids have reached already is left to the overflow partition: rows
// there need not be moved to be relayed, and a partition that overlaps them could
// not be attached. The margin of one partition is for ids handed out meanwhile.
func (t *term) makeAhead(ctx context.Context, leaves []leaf, sequence, overflow int64) error {
	next := int64(0)
	for _, l := range leaves {
		next = max(next, l.hi)
	}
	if end := max(sequence, overflow); next <= end {
		next = (end/partitionSize + 2) * partitionSize
	}
	for n := 0; n < perUpkeep && next <= sequence+partitionsAhead*partitionSize; n++ {
		err := t.makePartition(ctx, leaf{fmt.Sprintf("outbox_p%010d", next/partitionSize), next, next + partitionSize})
		switch {
		case lockBusy(err):
			t.r.log.Debug("no lock to add a partition, trying again", "partition", next/partitionSize)
			return nil
		case hasCode(err, "23514"): // ids of that range came into the overflow partition meanwhile
			return nil
		case err != nil:
			return fmt.Errorf("postgres: add a partition to the outbox: %w", err)
		}
		t.r.log.Info("added a partition to the outbox", "from", next, "to", next+partitionSize)
		next += partitionSize
	}
	if next <= sequence+partitionsAhead*partitionSize {
		t.upkeep = time.Now() // more at the next turn
	}
	return nil
}

// makePartition attaches a table made before: that does not lock the outbox
// against writers, and the overflow partition only for the moment of a look.
func (t *term) makePartition(ctx context.Context, l leaf) error {
	return pgx.BeginFunc(ctx, t.conn, func(tx pgx.Tx) error {
		if err := t.holdFence(ctx, tx); err != nil {
			return err
		}
		name := pgx.Identifier{"perdure", l.name}.Sanitize()
		for _, sql := range []string{
			setLockWait,
			`create table if not exists ` + name + ` (like perdure.outbox including all) with (toast_tuple_target = 8160)`,
			fmt.Sprintf(`alter table perdure.outbox attach partition %s for values from (%d) to (%d)`, name, l.lo, l.hi),
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

var setLockWait = fmt.Sprintf(`set local lock_timeout = '%dms'`, lockWait.Milliseconds())

// holdFence keeps every other relay from the cursor until the transaction ends.
func (t *term) holdFence(ctx context.Context, tx pgx.Tx) error {
	tag, err := tx.Exec(ctx, holdCursor, t.r.cfg.Source, t.fence, t.place)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%w: the cursor has another fence", errLeaseLost)
	}
	return nil
}

// lockBusy reports a lock that was not free in time.
func lockBusy(err error) bool { return hasCode(err, "55P03") || hasCode(err, "40P01") }

func hasCode(err error, code string) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == code
}

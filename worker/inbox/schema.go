package inbox

// The table, for databases that `perdure migrate` does not know, and its age.

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Schema is the SQL of perdure.inbox, for users who keep their own migrations.
// `perdure migrate` makes the same table in the database of the outbox.
const Schema = `create schema if not exists perdure;
create table if not exists perdure.inbox (
  task_id text not null,
  step    text not null,
  run     bigint not null,
  at      timestamptz not null default clock_timestamp(),
  primary key (task_id, step)
);`

// migrateScript is one implicit transaction: several processes may start at
// once, and `if not exists` alone does not make them wait for each other.
const migrateScript = `select pg_advisory_xact_lock(7236836402319465331);
` + Schema

const present = `select to_regclass('perdure.inbox') is not null`

// Conn is a pgx connection, pool or transaction.
type Conn interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Migrate makes the table where it is missing, in the database where the effects
// are. It may run in several processes at once. The user needs the right to
// create a schema only if the table is missing.
func Migrate(ctx context.Context, conn Conn) error {
	var there bool
	if err := conn.QueryRow(ctx, present).Scan(&there); err != nil {
		return fmt.Errorf("inbox: look for table perdure.inbox: %w", err)
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, migrateScript); err != nil {
		return fmt.Errorf("inbox: create table perdure.inbox: %w", err)
	}
	return nil
}

// MigrateSQL is Migrate for database/sql, with a Postgres driver that takes
// several statements at once (pgx/stdlib, lib/pq).
func MigrateSQL(ctx context.Context, db *sql.DB) error {
	var there bool
	if err := db.QueryRowContext(ctx, present).Scan(&there); err != nil {
		return fmt.Errorf("inbox: look for table perdure.inbox: %w", err)
	}
	if there {
		return nil
	}
	if _, err := db.ExecContext(ctx, migrateScript); err != nil {
		return fmt.Errorf("inbox: create table perdure.inbox: %w", err)
	}
	return nil
}

// MinAge is the least age that Prune takes.
const MinAge = 24 * time.Hour

// pruneBatch keeps the transactions of Prune short.
const pruneBatch = 5000

const pruneOlder = `delete from perdure.inbox where ctid = any(array(
  select ctid from perdure.inbox where at < clock_timestamp() - $1 * interval '1 microsecond' limit $2))`

// Prune deletes records older than age, by the database's clock, and says how
// many. A step whose record is gone is done again if its task comes again: age
// must be more than any task's life, the time included that dead letters lie
// before they are replayed. Call it on a connection or pool, not in a
// transaction: it deletes in small ones of its own.
func Prune(ctx context.Context, conn Conn, age time.Duration) (int64, error) {
	if age < MinAge {
		return 0, errors.New("inbox: prune: an age under 24 hours would forget steps of tasks that still run")
	}
	var total int64
	for {
		tag, err := conn.Exec(ctx, pruneOlder, age.Microseconds(), pruneBatch)
		if err != nil {
			return total, fmt.Errorf("inbox: prune records older than %v: %w", age, err)
		}
		total += tag.RowsAffected()
		if tag.RowsAffected() < pruneBatch {
			return total, nil
		}
	}
}

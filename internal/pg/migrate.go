package pg

// Migrations: applied by goose from embedded SQL, one migrator at a time.

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/perdure/perdure/schemas"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// stepWait is how long a step waits for a table that a transaction uses: whoever
	// wants the table meanwhile queues behind the step, producers too.
	stepWait = time.Second
	// stepTries is how often such steps are tried, with as much time in between: for
	// about a minute, not counting what the others take.
	stepTries = 30
)

// migrationLock is the advisory lock that a migrator holds: "perdure" in ASCII.
const migrationLock int64 = 0x70657264757265

// ErrOtherSource is wrapped by Migrate where the database already belongs to
// another source.
var ErrOtherSource = errors.New("database belongs to another source")

// Migration is one step of the schema.
type Migration struct {
	Version int64
	Name    string    // file name
	Applied time.Time // zero: pending
}

// Migrate brings the database at url to the newest schema and writes source as
// its name. It is idempotent, and safe to run from several processes at once:
// the others wait, until ctx ends. url must not go through a transaction
// pooler, because the lock is the session's.
func Migrate(ctx context.Context, url, source string) error {
	return MigrateTo(ctx, url, source, math.MaxInt64)
}

// MigrateTo is [Migrate] that stops behind a version: where an older release left
// the database, for a test of what comes after it.
func MigrateTo(ctx context.Context, url, source string, version int64) error {
	if !schemas.ValidSource(source) {
		return fmt.Errorf("migrate: %q cannot name a source: want 1 to 32 of [a-z0-9-], with a letter or digit at both ends (PERDURE_SOURCE)", source)
	}
	return locked(ctx, url, func(db *sql.DB) error {
		if err := checkSource(ctx, db, source); err != nil {
			return err
		}
		if _, err := db.ExecContext(ctx, `create schema if not exists perdure`); err != nil {
			return fmt.Errorf("migrate: create schema perdure (the role needs CREATE on the database): %w", err)
		}
		p, err := provider(db)
		if err != nil {
			return err
		}
		err = patiently(ctx, db, func() error {
			_, err := p.UpTo(ctx, version)
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		if _, err := db.ExecContext(ctx, `insert into perdure.source (source) values ($1) on conflict do nothing`, source); err != nil {
			return fmt.Errorf("migrate: write source %q: %w", source, err)
		}
		return checkSource(ctx, db, source)
	})
}

// Down takes back the newest applied migration and returns its version; 0 where
// none is applied. The first migration's takes every task and letter with it.
func Down(ctx context.Context, url string) (int64, error) {
	var version int64
	err := locked(ctx, url, func(db *sql.DB) error {
		exists, err := tableExists(ctx, db, "perdure.migrations")
		if err != nil || !exists {
			return err
		}
		p, err := provider(db)
		if err != nil {
			return err
		}
		var res *goose.MigrationResult
		err = patiently(ctx, db, func() error {
			res, err = p.Down(ctx)
			return err
		})
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("migrate down: %w", err)
		}
		version = res.Source.Version
		return nil
	})
	return version, err
}

// Status lists every migration of this binary, oldest first, with the time at
// which the database at url took it. It writes nothing.
func Status(ctx context.Context, url string) ([]Migration, error) {
	db, err := open(url, 0)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	exists, err := tableExists(ctx, db, "perdure.migrations")
	if err != nil {
		return nil, err
	}
	p, err := provider(db)
	if err != nil {
		return nil, err
	}
	var list []Migration
	if !exists {
		for _, s := range p.ListSources() {
			list = append(list, Migration{Version: s.Version, Name: s.Path})
		}
		return list, nil
	}
	status, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate status: %w", err)
	}
	for _, s := range status {
		list = append(list, Migration{Version: s.Source.Version, Name: s.Source.Path, Applied: s.AppliedAt})
	}
	return list, nil
}

// patiently runs a step until it has had the tables that it changes. It leaves them
// to the others between its tries, so that a transaction which stays open holds up the
// migration and nobody else.
func patiently(ctx context.Context, db *sql.DB, step func() error) error {
	for tries := 1; ; tries++ {
		err := step()
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != "55P03" && pe.Code != "40P01" { // no lock in time, a deadlock
			return err
		}
		if tries == stepTries {
			var pids string
			if qerr := db.QueryRowContext(ctx, holders).Scan(&pids); qerr != nil {
				return errors.Join(err, fmt.Errorf("ask who holds the tables: %w", qerr))
			}
			return fmt.Errorf("%w: transactions that use the tables are open, pids %s: end them, or wait until they have, then try again", err, pids)
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(stepWait):
		}
	}
}

// holders are the transactions that have been using the schema's tables for a while.
const holders = `
select coalesce(array_agg(distinct l.pid), '{}')::text
from pg_locks l join pg_class c on c.oid = l.relation left join pg_stat_activity a on a.pid = l.pid
where c.relnamespace = 'perdure'::regnamespace and l.granted and l.database = (select oid from pg_database where datname = current_database())
  and coalesce(a.xact_start, '-infinity') < now() - interval '1 s'`

func provider(db *sql.DB) (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	store, err := database.NewStore(goose.DialectPostgres, "perdure.migrations")
	if err != nil {
		return nil, err
	}
	p, err := goose.NewProvider("", db, dir, goose.WithStore(store), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("migrate: read the embedded migrations: %w", err)
	}
	return p, nil
}

// checkSource refuses a database that has another name than source. A database
// without a name passes.
func checkSource(ctx context.Context, db *sql.DB, source string) error {
	exists, err := tableExists(ctx, db, "perdure.source")
	if err != nil || !exists {
		return err
	}
	var have string
	err = db.QueryRowContext(ctx, `select source from perdure.source`).Scan(&have)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("migrate: read perdure.source: %w", err)
	case have != source:
		return fmt.Errorf("migrate: %w: it is %q, this process has PERDURE_SOURCE=%s: use another database, or PERDURE_SOURCE=%s", ErrOtherSource, have, source, have)
	}
	return nil
}

func tableExists(ctx context.Context, db *sql.DB, table string) (bool, error) {
	var yes bool
	if err := db.QueryRowContext(ctx, `select to_regclass($1) is not null`, table).Scan(&yes); err != nil {
		return false, fmt.Errorf("postgres: look for %s: %w", table, err)
	}
	return yes, nil
}

// locked runs do while it holds the migration lock of the database at url.
func locked(ctx context.Context, url string, do func(*sql.DB) error) (err error) {
	db, err := open(url, stepWait)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("postgres: connect: %w", err)
	}
	defer conn.Close() // ends the session with db, and with it the lock
	if err := waitForLock(ctx, conn); err != nil {
		return err
	}
	defer func() {
		_, uerr := conn.ExecContext(context.WithoutCancel(ctx), `select pg_advisory_unlock($1)`, migrationLock)
		if err == nil && uerr != nil {
			err = fmt.Errorf("migrate: release the lock: %w", uerr)
		}
	}()
	return do(db)
}

// waitForLock asks again every 100 ms: a waiting pg_advisory_lock would hold a
// snapshot, which a migration that builds an index concurrently waits for.
func waitForLock(ctx context.Context, conn *sql.Conn) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var got bool
		if err := conn.QueryRowContext(ctx, `select pg_try_advisory_lock($1)`, migrationLock).Scan(&got); err != nil {
			return fmt.Errorf("migrate: take the lock: %w", err)
		}
		if got {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("migrate: another migrator holds the lock: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// open's sessions wait that long for a lock; 0 = as long as it takes.
func open(url string, lockWait time.Duration) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "perdure-migrate"
	}
	cfg.RuntimeParams["lock_timeout"] = strconv.FormatInt(lockWait.Milliseconds(), 10)
	return stdlib.OpenDB(*cfg), nil
}

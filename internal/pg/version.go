package pg

// Which schema a database has, and which one this binary needs.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is what reading one row takes: *pgxpool.Pool, *pgx.Conn and pgx.Tx
// have it.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ErrSchemaOld is wrapped by CheckVersion where migrations are missing.
var ErrSchemaOld = errors.New("database schema is older than this binary")

// Version returns the newest migration that the database has; 0 = none.
func Version(ctx context.Context, db Querier) (int64, error) {
	var v int64
	err := db.QueryRow(ctx, `select coalesce(max(version_id), 0) from perdure.migrations where is_applied`).Scan(&v)
	var pe *pgconn.PgError
	if errors.As(err, &pe) && (pe.Code == "42P01" || pe.Code == "3F000") { // no such table, no such schema
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("postgres: read the schema's version: %w", err)
	}
	return v, nil
}

// CheckVersion returns an error that wraps ErrSchemaOld where the database
// lacks a migration of this binary. A newer schema is fine: migrations are
// written so that the binaries before them go on during a rolling deploy.
func CheckVersion(ctx context.Context, db Querier) error {
	have, err := Version(ctx, db)
	if err != nil {
		return err
	}
	if want := Latest(); have < want {
		return fmt.Errorf("postgres: %w: it is at %d, %d is needed: run `perdure migrate up`", ErrSchemaOld, have, want)
	}
	return nil
}

// Latest is the newest migration in this binary.
func Latest() int64 {
	names, _ := fs.Glob(migrations, "migrations/*.sql") // the pattern is constant: no error
	var latest int64
	for _, name := range names {
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if v, err := strconv.ParseInt(digits, 10, 64); err == nil {
			latest = max(latest, v)
		}
	}
	return latest
}

package pg

// The pool: prepared statements on a direct connection, none that outlive a
// round trip where a transaction pooler stands between.

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pool opens a pool on url and proves that the server answers. The caller
// closes it.
//
// Behind a transaction pooler (PgBouncer, PgCat, a cloud provider's proxy) two
// statements of one connection may reach two backends, so a prepared statement
// may be missing. Pool notices a pooler by the backend's process id, which
// cannot be the one that the handshake gave, and then sends statements
// unnamed, in one round trip, with their description cached on our side.
// `default_query_exec_mode` in url overrides that.
//
// On a direct connection nothing is compiled (`jit=off`, unless url says
// otherwise): a query that is planned for a table of unknown size costs hundreds
// of milliseconds of compilation, and reads a few rows.
func Pool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "perdure"
	}
	pooled, err := pooler(ctx, cfg.ConnConfig)
	if err != nil {
		return nil, err
	}
	if _, set := cfg.ConnConfig.RuntimeParams["jit"]; !set && !pooled { // a pooler refuses parameters that it does not know
		cfg.ConnConfig.RuntimeParams["jit"] = "off"
	}
	if pooled && cfg.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return pool, nil
}

// pooler reports whether something stands between us and the backend.
func pooler(ctx context.Context, cfg *pgx.ConnConfig) (bool, error) {
	cfg = cfg.Copy()
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return false, fmt.Errorf("postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var pid uint32
	if err := conn.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid); err != nil {
		return false, fmt.Errorf("postgres: ask the backend for its process id: %w", err)
	}
	return pid != conn.PgConn().PID(), nil
}

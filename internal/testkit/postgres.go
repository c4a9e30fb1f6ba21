// Postgres for a test: an empty or a migrated database, or a whole server.

package testkit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/embedded"
)

// testSettings are what the tests need beyond the defaults: prepared
// transactions, and connections for packages that run side by side.
var testSettings = map[string]string{
	"max_prepared_transactions": "20",
	"max_connections":           "200",
}

// PostgresDB is a database of one test.
type PostgresDB struct {
	URL  string // of a superuser
	Real bool   // always true: also the embedded server is a real Postgres
}

// postgresOnce finds or starts the process's server and gives its URL.
var postgresOnce = sync.OnceValues(func() (string, error) {
	server := os.Getenv(EnvPostgres)
	where := "at PERDURE_TEST_POSTGRES"
	if server == "" {
		p, err := startShared()
		if err != nil {
			return "", err
		}
		server, where = p.URL(), p.Source()
	}
	var version string
	err := withConn(server, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `show server_version`).Scan(&version)
	})
	if err != nil {
		return "", err
	}
	used.tell("postgres  %s (%s)", version, where)
	return server, nil
})

// Postgres gives the test a fresh, empty database, dropped when it ends.
func Postgres(t testing.TB) PostgresDB {
	t.Helper()
	return newDatabase(t, "template0")
}

// newDatabase clones a template for the test.
func newDatabase(t testing.TB, template string) PostgresDB {
	t.Helper()
	server, err := postgresOnce()
	if err != nil {
		t.Fatalf("testkit: postgres: %v", err)
	}
	name := prefix()
	if err := createDatabase(server, name, template); err != nil {
		t.Fatalf("testkit: %v", err)
	}
	t.Cleanup(func() {
		if err := dropDatabase(server, name); err != nil {
			t.Errorf("testkit: %v", err)
		}
	})
	return PostgresDB{URL: databaseURL(t, server, name), Real: true}
}

// OwnPostgres starts a server of that major version ("15" or "18") for the
// test, which may kill and restart it. Where the version cannot be had, the
// test is skipped, or fails under PERDURE_TEST_REQUIRE_REAL=1.
func OwnPostgres(t testing.TB, version string) *embedded.Postgres {
	t.Helper()
	p, err := embedded.StartPostgres(context.Background(), embedded.PostgresConfig{
		Version: version, Settings: testSettings, Log: Logger(t),
	})
	if err != nil && requireReal() {
		t.Fatalf("testkit: postgres %s: %v", version, err)
	}
	if err != nil {
		t.Skipf("testkit: postgres %s: %v", version, err)
	}
	used.tell("postgres  %s (%s, owned by a test)", p.Version(), p.Source())
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("testkit: close postgres: %v", err)
		}
	})
	return p
}

// startShared starts this process's server on one of a few directories that
// later test processes use again: a directory per process would have to be
// removed by processes that may be killed.
func startShared() (*embedded.Postgres, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	lock, err := lockFree(filepath.Join(base, "perdure", "test"))
	if err != nil {
		return nil, err
	}
	used.keep(release{lock})
	p, err := embedded.StartPostgres(context.Background(), embedded.PostgresConfig{
		Dir: filepath.Join(lock.Dir(), "postgres"), Settings: testSettings,
	})
	if err != nil {
		return nil, err
	}
	used.keep(p)
	return p, sweep(p.URL())
}

// lockFree takes the first directory that no other test process holds.
func lockFree(base string) (*embedded.DirLock, error) {
	for n := range 64 {
		lock, err := embedded.LockDir(filepath.Join(base, strconv.Itoa(n)))
		var busy *embedded.DirInUseError
		if errors.As(err, &busy) {
			continue
		}
		return lock, err
	}
	return nil, fmt.Errorf("64 test processes hold all directories in %s", base)
}

type release struct{ lock *embedded.DirLock }

func (r release) Close() error { return r.lock.Release() }

// sweep drops the databases of test processes that were killed. Only for a
// server that this process has for itself.
func sweep(server string) error {
	return withConn(server, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `select datname from pg_database where datname ~ '^t[a-z0-9]{12}$'`)
		if err != nil {
			return fmt.Errorf("list left-over databases: %w", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("list left-over databases: %w", err)
		}
		for _, name := range names {
			if err := dropDatabase(server, name); err != nil {
				return err
			}
		}
		return nil
	})
}

func createDatabase(server, name, template string) error {
	return withConn(server, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "create database "+quote(name)+" template "+quote(template))
		if err != nil {
			return fmt.Errorf("create database %s from %s: %w", name, template, err)
		}
		return nil
	})
}

// dropDatabase also removes prepared transactions, which a forced drop
// refuses to take along.
func dropDatabase(server, name string) error {
	if err := rollbackPrepared(server, name); err != nil {
		return err
	}
	return withConn(server, func(ctx context.Context, c *pgx.Conn) error {
		if _, err := c.Exec(ctx, "drop database if exists "+quote(name)+" with (force)"); err != nil {
			return fmt.Errorf("drop database %s: %w", name, err)
		}
		return nil
	})
}

func rollbackPrepared(server, name string) error {
	var gids []string
	err := withConn(server, func(ctx context.Context, c *pgx.Conn) error {
		rows, err := c.Query(ctx, `select gid from pg_prepared_xacts where database = $1`, name)
		if err != nil {
			return err
		}
		gids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil || len(gids) == 0 {
		return err
	}
	inside, err := withDatabase(server, name)
	if err != nil {
		return err
	}
	return withConn(inside, func(ctx context.Context, c *pgx.Conn) error {
		for _, gid := range gids {
			if _, err := c.Exec(ctx, "rollback prepared '"+strings.ReplaceAll(gid, "'", "''")+"'"); err != nil {
				return fmt.Errorf("roll back prepared transaction %s of %s: %w", gid, name, err)
			}
		}
		return nil
	})
}

// withConn runs something on a connection of its own.
func withConn(server string, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	c, err := pgx.Connect(ctx, server)
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	return errors.Join(do(ctx, c), c.Close(ctx))
}

func databaseURL(t testing.TB, server, name string) string {
	t.Helper()
	u, err := withDatabase(server, name)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	return u
}

func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("%s must be a URL (postgres://user:password@host:port/db)", EnvPostgres)
	}
	u.Path = "/" + name
	return u.String(), nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

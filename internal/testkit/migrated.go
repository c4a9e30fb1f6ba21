// A database with Perdure's tables: migrated once a process, then cloned.

package testkit

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/pg"
)

// MigratedSource is the source that databases of [MigratedPostgres] belong to.
const MigratedSource = "main"

// templateOnce migrates a template database and gives its name.
var templateOnce = sync.OnceValues(func() (string, error) {
	server, err := postgresOnce()
	if err != nil {
		return "", err
	}
	name := prefix()
	if err := createDatabase(server, name, "template0"); err != nil {
		return "", err
	}
	used.keep(droppable{server, name})
	url, err := withDatabase(server, name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return name, pg.Migrate(ctx, url, MigratedSource)
})

// MigratedPostgres gives the test a database of its own with the newest schema
// and no rows, of source [MigratedSource], dropped when the test ends.
func MigratedPostgres(t testing.TB) PostgresDB {
	t.Helper()
	template, err := templateOnce()
	if err != nil {
		t.Fatalf("testkit: migrate a template database: %v", err)
	}
	return newDatabase(t, template)
}

// droppable is a database that goes when the test process ends.
type droppable struct{ server, name string }

func (d droppable) Close() error { return dropDatabase(d.server, d.name) }

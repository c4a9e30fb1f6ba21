package dispatcher

// Postgres goes away in the middle of a batch whose tasks are tried one by one.

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/dispatcher/internal/lines"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// leaving refuses transactions, which makes the stream try each task alone, and
// goes away after left of those.
type leaving struct {
	client.DB
	left int
}

var errNoBatch = &pgconn.PgError{Code: "XX000", Message: "no batch today"}

func (l *leaving) Begin(context.Context) (pgx.Tx, error) { return nil, errNoBatch }

func (l *leaving) SendBatch(context.Context, *pgx.Batch) pgx.BatchResults { return refused{} }

// refused is a batch that was not sent.
type refused struct{ pgx.BatchResults }

func (refused) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, errNoBatch }
func (refused) Close() error                     { return errNoBatch }

func (l *leaving) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	if strings.HasPrefix(query, "insert into perdure.outbox") {
		if l.left--; l.left < 0 {
			return gone{}
		}
	}
	return l.DB.QueryRow(ctx, query, args...)
}

type gone struct{}

func (gone) Scan(...any) error {
	return &pgconn.PgError{Code: "57P01", Message: "terminating connection"}
}

func TestLinesThatWereAcceptedHearSoWhenPostgresGoesAway(t *testing.T) {
	for _, c := range []struct{ left, accepted int }{{2, 2}, {0, 0}} {
		db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		cat, err := schemas.ParseCatalog("catalog.yaml", []byte("version: 1\nqueues: {q: {}}\nkinds: {any: {queue: q}}\n"), nil)
		if err != nil {
			t.Fatal(err)
		}
		d, err := New(Config{}, Deps{DB: db, Catalog: cat, Log: testkit.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ApplyCatalog(t.Context(), db, cat, ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
		cl, err := client.New(t.Context(), &leaving{db, c.left})
		if err != nil {
			t.Fatal(err)
		}
		s := &stream{d: d, client: cl, who: d.gate.Producer(t.Context())}
		in := lines.NewReader(strings.NewReader(strings.Repeat(`{"kind":"any","payload":1}`+"\n", 4)), maxTaskJSON)
		_, err = s.batch(t.Context(), in)
		if (err == nil) != (c.accepted > 0) {
			t.Fatalf("%d accepted: error %v", c.accepted, err)
		}
		ids, away := 0, 0
		for dec := json.NewDecoder(&s.out); dec.More(); {
			var r struct {
				ID     string
				Status int
			}
			if err := dec.Decode(&r); err != nil {
				t.Fatal(err)
			}
			if r.ID != "" {
				ids++
			}
			if r.Status == 503 {
				away++
			}
		}
		if got := fmt.Sprint(ids, away); c.accepted > 0 && got != "2 2" {
			t.Errorf("accepted and told away: %s, want 2 2", got)
		}
		if n := count(t, db); n != c.accepted {
			t.Errorf("%d rows, want %d", n, c.accepted)
		}
	}
}

func count(t *testing.T, db pg.Querier) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `select count(*) from perdure.outbox`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

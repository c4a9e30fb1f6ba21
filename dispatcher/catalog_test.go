package dispatcher_test

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func catalog(t testing.TB, text string) *schemas.Catalog {
	t.Helper()
	c, err := schemas.ParseCatalog("catalog.yaml", []byte(text), fstest.MapFS{
		"refund.json": {Data: []byte(`{"type": "object", "required": ["amount"], "properties": {"amount": {"type": "integer", "minimum": 1}}}`)},
		"nul.json":    {Data: []byte(`{"type": "string", "not": {"const": "\u0000"}}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Pool(context.Background(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestApplyCatalogSaysWhatItChanged(t *testing.T) {
	db := database(t)
	apply := func(text string, opt dispatcher.ApplyOptions, want ...dispatcher.Change) {
		t.Helper()
		got, err := dispatcher.ApplyCatalog(t.Context(), db, catalog(t, text), opt)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	base := "version: 1\nqueues: {a: {}, b: {}}\nkinds:\n  k: {queue: a, schema: refund.json, expires_after: 1h}\n"
	none := dispatcher.ApplyOptions{}
	apply(base, none, dispatcher.Change{What: "queue", Name: "a", Action: "added"}, dispatcher.Change{What: "queue", Name: "b", Action: "added"}, dispatcher.Change{What: "kind", Name: "k", Action: "added"})
	apply(base, none)
	apply(base+"  n: {queue: b, schema: nul.json}\n", none, dispatcher.Change{What: "kind", Name: "n", Action: "added"})
	apply(base, none)
	apply(base, dispatcher.ApplyOptions{Prune: true}, dispatcher.Change{What: "kind", Name: "n", Action: "removed"})
	apply(base, dispatcher.ApplyOptions{MaxPayload: 1000}, dispatcher.Change{What: "kind", Name: "k", Action: "changed"})
	apply("version: 1\nqueues: {a: {weight: 3}}\nkinds: {k: {queue: a}}\n", dispatcher.ApplyOptions{Prune: true},
		dispatcher.Change{What: "queue", Name: "a", Action: "changed"}, dispatcher.Change{What: "kind", Name: "k", Action: "changed"}, dispatcher.Change{What: "queue", Name: "b", Action: "removed"})
}

func TestTwoAppliersAgree(t *testing.T) {
	db := database(t)
	var wg sync.WaitGroup
	for i := range 8 {
		text := "version: 1\nqueues: {a: {}, b: {}}\nkinds: {k: {queue: a}, l: {queue: b}}\n"
		if i%2 == 0 {
			text = "version: 1\nqueues: {b: {}, c: {}}\nkinds: {l: {queue: c}, k: {queue: b}}\n"
		}
		cat := catalog(t, text)
		wg.Go(func() {
			if _, err := dispatcher.ApplyCatalog(t.Context(), db, cat, dispatcher.ApplyOptions{Prune: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var n int
	if err := db.QueryRow(t.Context(), `select count(*) from perdure.queues`).Scan(&n); err != nil || n != 2 {
		t.Fatalf("%d queues, %v", n, err)
	}
}

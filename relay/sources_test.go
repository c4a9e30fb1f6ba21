package relay

// Two databases, one Kafka: each source has its own lease, cursor and ids, and
// neither waits for the other.

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

func TestTwoSourcesFeedOneKafka(t *testing.T) {
	t.Parallel()
	a := newRig(t)
	other := testkit.Postgres(t).URL
	if err := pg.Migrate(t.Context(), other, "billing-eu"); err != nil {
		t.Fatal(err)
	}
	pool, err := pg.Pool(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b := *a
	b.url, b.db = other, pool
	first := a.run(a.relay("a", nil))
	b.run(b.relay("b", func(c *Config) { c.Source = "billing-eu" }))
	const n = 50
	for i := range n { // the same ids, and the same keys
		a.enqueue("k", i)
		b.enqueue("k", i)
	}
	count := func(recs []*kgo.Record) map[string]string {
		order := map[string]string{}
		for _, r := range recs {
			id, err := schemas.ParseID(header(r, schemas.HeaderID))
			if err != nil {
				t.Fatal(err)
			}
			if want := schemas.SourcePrefix + id.Source; header(r, schemas.HeaderSource) != want {
				t.Errorf("%s comes from %s", id, header(r, schemas.HeaderSource))
			}
			order[id.Source] += fmt.Sprint(id.Seq, " ")
		}
		return order
	}
	order := count(a.first(2*n, a.names.Tasks("payments")))
	var want strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprint(&want, i, " ")
	}
	for _, source := range []string{"main", "billing-eu"} {
		if order[source] != want.String() {
			t.Errorf("%s: ids %s", source, order[source])
		}
	}
	// One source's relay is gone: the other's goes on.
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	a.enqueue("k", n)
	b.enqueue("k", n)
	a.first(2*n+1, a.names.Tasks("payments"))
	a.run(a.relay("a2", nil))
	if got := count(a.first(2*n+2, a.names.Tasks("payments"))); len(strings.Fields(got["main"])) != n+1 || len(strings.Fields(got["billing-eu"])) != n+1 {
		t.Errorf("%v", got)
	}
	// A relay for one source refuses the other's database.
	wrong := b.relay("c", nil)
	if err := b.run(wrong).wait(); !isHalt(err) || !strings.Contains(err.Error(), "billing-eu") {
		t.Errorf("got %v", err)
	}
}

package relay

// A relay behind a transaction pooler.

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

func TestRelayBehindATransactionPoolerHalts(t *testing.T) {
	g := newRig(t)
	pool, err := pg.Pool(t.Context(), testkit.PgBouncer(t, g.url, 4))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r := g.relay("a", nil)
	r.deps.DB = pool
	x := g.run(r)
	select {
	case <-time.After(time.Minute):
		t.Fatalf("it goes on: %+v", r.Status())
	case err := <-x.done:
		x.done <- err
		var halted *HaltError
		if !errors.As(err, &halted) || halted.Reason != HaltPooler || !strings.Contains(err.Error(), "PERDURE_POSTGRES_DIRECT_URL") {
			t.Errorf("it ended with %v", err)
		}
	}
	g.run(g.relay("b", nil)) // past the pooler
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
}

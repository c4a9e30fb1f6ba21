package relay

// A chunk that was read ahead is behind the one before it, and only there.

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// A chunk fails while the next is read already: what was read is forgotten, and
// the failed chunk comes first again.
func TestAChunkReadAheadIsForgottenWhenTheOneBeforeFails(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", func(c *Config) { c.Chunk, c.Probe = 2, time.Hour })
	ahead := 0
	r.seams.beforeCursor = func(_ context.Context, t *term, w *window) error {
		if t.large && w.full {
			ahead++
		}
		return nil
	}
	run := g.run(r)
	g.exec(`insert into perdure.outbox (kind, queue, payload) values ('post', 'mail', '{}')`)
	g.enqueue("k", 0)
	g.first(1, g.names.Tasks("mail"))
	g.drained(10 * time.Second)
	g.exec(`delete from perdure.outbox where queue = 'mail'`) // the verdict is about payments
	testkit.DeleteTopic(t, g.cl, g.names.Tasks("mail"))
	const n = 8
	tx := g.begin()
	for i := 1; i <= n; i++ { // every chunk has one of each
		g.enqueueIn(tx, "k", i)
		if _, err := tx.Exec(t.Context(), `insert into perdure.outbox (kind, queue, payload) values ('post', 'mail', $1)`, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	g.commit(tx)
	g.drained(time.Minute)
	if got := one[string](g, `select coalesce(string_agg(convert_from(payload, 'UTF8'), ' ' order by id), '') from perdure.parked`); got != "1 2 3 4 5 6 7 8" {
		t.Errorf("parked are %q, want every row of the broken queue in order", got)
	}
	g.right()
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if ahead < n-1 {
		t.Errorf("%d chunks of a large window, want %d at least: nothing was read ahead", ahead, n-1)
	}
}

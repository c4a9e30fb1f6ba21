package relay

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// What a pass means to file and the statement does not find would be lost behind
// the cursor.
func TestAPassThatFilesTooFewMovesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	id := one[int64](g, `insert into perdure.outbox (kind, queue, run_at, payload) values ('post', 'mail', now() + interval '1 hour', '{}') returning id`)
	cursor := func() string { return one[string](g, `select c::text from perdure.relay_cursor c`) }
	before := cursor()
	beyond := one[string](g, `select pg_current_snapshot()::text`)
	queues, whys := []string{"mail"}, []string{"topic_missing"}
	for _, x := range []struct {
		name, sql, place string
		args             []any
	}{
		{"an id that is not there", fileSchedule, "perdure.scheduled", []any{[]int64{id, id + 1}, id, id + 1}},
		{"outside of the bounds", fileSchedule, "perdure.scheduled", []any{[]int64{id}, id + 1, id + 2}},
		{"parked outside of the bounds", fileParked, "perdure.parked", []any{[]int64{id}, queues, whys, id - 2, id - 1, []int64{id}}},
		{"parked without a cause", fileParked, "perdure.parked", []any{[]int64{id}, []string{"other"}, whys, id, id, []int64{id}}},
	} {
		c := tm.commit(moveBeyond, beyond)
		c.add(x.sql, x.args...)
		err := c.run(t.Context())
		if err == nil || !strings.Contains(err.Error(), x.place) || !strings.Contains(err.Error(), "nothing was moved") {
			t.Errorf("%s: %v", x.name, err)
		}
		if now := cursor(); now != before {
			t.Errorf("%s: the cursor moved from %s to %s", x.name, before, now)
		}
	}
	if n := one[int](g, `select (select count(*) from perdure.scheduled) + (select count(*) from perdure.parked)`); n != 0 {
		t.Errorf("%d rows are filed", n)
	}

	// A lost fence files nothing too, and is told as what it is.
	g.exec(`update perdure.relay_cursor set fence = fence + 1`)
	c := tm.commit(moveBeyond, beyond)
	c.add(fileSchedule, []int64{id}, id, id)
	if err := c.run(t.Context()); !errors.Is(err, errLeaseLost) {
		t.Errorf("with a lost fence: %v", err)
	}
	g.exec(`update perdure.relay_cursor set fence = fence - 1`)

	for _, x := range []struct {
		sql  string
		args []any
	}{{fileSchedule, []any{[]int64{id}, id, id}}, {fileParked, []any{[]int64{id}, queues, whys, id, id, []int64{id}}}} {
		c := tm.commit(holdCursor)
		c.add(x.sql, x.args...)
		if err := c.run(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := one[int](g, `select (select count(*) from perdure.scheduled) + (select count(*) from perdure.parked)`); n != 2 {
		t.Errorf("%d rows are filed, want one of each", n)
	}
}

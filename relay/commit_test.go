package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
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
		for _, run := range []func(*commit) error{
			func(c *commit) error { return c.run(t.Context()) },
			func(c *commit) error { return c.runAndRead(t.Context(), c.andWindow(), unread) },
		} {
			c := tm.commit(moveBeyond, beyond)
			c.add(x.sql, x.args...)
			err := run(c)
			if err == nil || !strings.Contains(err.Error(), x.place) || !strings.Contains(err.Error(), "nothing was moved") {
				t.Errorf("%s: %v", x.name, err)
			}
			if now := cursor(); now != before {
				t.Errorf("%s: the cursor moved from %s to %s", x.name, before, now)
			}
		}
	}
	if n := one[int](g, `select (select count(*) from perdure.scheduled) + (select count(*) from perdure.parked)`); n != 0 {
		t.Errorf("%d rows are filed", n)
	}

	// A lost fence files nothing too, and is told as what it is.
	g.setCursor(tm, `fence = fence + 1`)
	c := tm.commit(moveBeyond, beyond)
	c.add(fileSchedule, []int64{id}, id, id)
	if err := c.run(t.Context()); !errors.Is(err, errLeaseLost) {
		t.Errorf("with a lost fence: %v", err)
	}
	behind := tm.commit(moveBeyond, beyond)
	if err := behind.runAndRead(t.Context(), behind.andWindow(), unread); !errors.Is(err, errLeaseLost) {
		t.Errorf("with a lost fence, and a read: %v", err)
	}
	g.setCursor(tm, `fence = fence - 1`)

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

// A relay that is stopped while it takes in what lies behind its move keeps nobody from
// the cursor: whoever takes over need not wait until it wakes.
func TestAnAnswerThatNobodyTakesLocksNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	// More than the sockets between them hold.
	g.exec(`insert into perdure.outbox (kind, queue, payload) select 'post', 'mail', convert_to('"' || repeat(md5(n::text), 30000) || '"', 'UTF8') from generate_series(1, 60) n`)
	results := tm.conn.SendBatch(t.Context(), tm.commit(moveBeyond, firstSnapshot).andWindow())
	pid := tm.conn.PgConn().PID()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return one[bool](g, `select coalesce(wait_event = 'ClientWrite', false) from pg_stat_activity where pid = $1`, int(pid)), "the server is not kept waiting by its reader"
	})
	tx, err := g.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it only locks
	if _, err := tx.Exec(t.Context(), `select from perdure.relay_cursor for update nowait`); err != nil {
		t.Error(err)
	}
	if err := results.Close(); err != nil {
		t.Error(err)
	}
}

// While anyone holds a snapshot open, every version of the cursor's row that a pass
// leaves stays: no pass may go through them.
func TestAPassLooksAtOneVersionOfTheCursor(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	held, err := g.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback(context.Background()) //nolint:errcheck // it only reads
	if _, err := held.Exec(t.Context(), `select 1 from perdure.relay_lease`); err != nil {
		t.Fatal(err)
	}
	const passes = 2000
	if _, err := tm.conn.Exec(t.Context(), `set synchronous_commit = off`); err != nil {
		t.Fatal(err)
	}
	for range passes {
		if err := tm.commit(moveBeyond, firstSnapshot).run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// What a statement touches is the same however many versions there are: a few pages
	// of the table and its indexes, not the dozens that the versions fill.
	if pages := one[int](g, `select pg_relation_size('perdure.relay_cursor') / 8192`); pages < 20 {
		t.Fatalf("the versions fill %d pages: the snapshot did not keep them", pages)
	}
	head := fmt.Sprintf(`'main', %d`, tm.fence)
	place := fmt.Sprintf(`, '(%d,%d)'`, tm.place.BlockNumber, tm.place.OffsetNumber)
	for name, x := range map[string]struct{ sql, types, args string }{
		"window":     {tm.r.sql.window, "text, bigint, tid, boolean, bigint, bigint", head + place + `, false, 1, 999999`},
		"behind":     {tm.r.sql.behind, "text, bigint, bigint, bigint", head + `, 1, 999999`},
		"bounds":     {tm.r.sql.bounds, "text, bigint, tid, bigint", head + place + `, 1`},
		"behind it":  {tm.r.sql.boundsBehind, "text, bigint", head},
		"moveBeyond": {moveBeyond, "text, bigint, tid, text", head + place + `, '` + firstSnapshot + `'`},
		"holdCursor": {holdCursor, "text, bigint, tid", head + place},
	} {
		plan := planOf(t, tm.conn, x.sql, "generic", x.types, x.args)
		if n := strings.Count(plan, "Tid Scan on relay_cursor"); n != 1 || strings.Count(plan, "relay_cursor") != n+strings.Count(plan, "Update on relay_cursor") {
			t.Errorf("%s goes through the versions:\n%s", name, plan)
		}
	}
	if err := tm.commit(holdCursor).run(t.Context()); err != nil {
		t.Error(err)
	}
}

// Another takes the cursor while the first statement of a commit waits for its row:
// nothing behind that statement takes effect.
func TestACommitThatWaitedForATakeOverChangesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	g.exec(`insert into perdure.parked (id, why, generation, epoch, created_at, kind, queue, content_type, payload, checked)
values (1, 'topic_missing', 1, 0, now(), 'post', 'mail', 'application/json', '{}', true)`)
	takenUnder := func(first string, args ...any) func(*testing.T) {
		return func(t *testing.T) {
			taking, err := g.db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer taking.Rollback(context.Background()) //nolint:errcheck // after a commit it does nothing
			if _, err := taking.Exec(t.Context(), `update perdure.relay_cursor set fence = fence + 1`); err != nil {
				t.Fatal(err)
			}
			c := tm.commit(first, args...)
			c.add(dropParked, []int64{1})
			done := make(chan error, 1)
			go func() { done <- c.run(context.Background()) }()
			pid := tm.conn.PgConn().PID()
			testkit.Eventually(t, time.Minute, func() (bool, string) {
				return one[bool](g, `select coalesce((select wait_event_type = 'Lock' from pg_stat_activity where pid = $1), false)`, int(pid)), "the commit does not wait for the row"
			})
			if err := taking.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, errLeaseLost) {
				t.Errorf("%v, want errLeaseLost", err)
			}
			if n := one[int](g, `select count(*) from perdure.parked`); n != 1 {
				t.Fatal("what was behind it took effect")
			}
			g.setCursor(tm, `fence = fence - 1`)
		}
	}
	t.Run("hold", takenUnder(holdCursor))
	t.Run("move", takenUnder(moveBeyond, firstSnapshot))
}

// Who rewrites the cursor's table puts its row elsewhere: the relay finds it again,
// and loses and repeats nothing over it.
func TestACursorThatWasMovedElsewhereIsFoundAgain(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	run := g.run(g.relay("a", nil))
	for i := range 20 {
		g.enqueue("before", i)
	}
	g.drained(time.Minute)
	place := func() string { return one[string](g, `select ctid::text from perdure.relay_cursor`) }
	before := place()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		g.exec(`vacuum full perdure.relay_cursor`)
		return place() != before, "the row is still at " + before
	})
	for i := range 20 {
		g.enqueue("after", i)
	}
	g.drained(time.Minute)
	g.right()
	if err := run.stop(); err != nil {
		t.Error(err)
	}
}

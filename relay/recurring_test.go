package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// recurring gives a rig whose catalog files a kind on New Year's Day.
func recurring(t *testing.T, schedule string) *rig {
	t.Helper()
	g := newRig(t)
	g.schedule(schedule)
	return g
}

func (g *rig) schedule(schedule string) {
	g.t.Helper()
	var err error
	g.cat, err = schemas.ParseCatalog("catalog.yaml", []byte(`
version: 1
queues:
  payments: {partitions: 4, replication: 1}
  mail: {partitions: 2, replication: 1}
kinds:
  pay: {queue: payments, order: key}
  post: {queue: mail}
  greet: {queue: mail, expires_after: 1h, `+schedule+`}
`), nil)
	if err != nil {
		g.t.Fatal(err)
	}
}

const newYear = `schedule: {cron: "0 0 1 1 *", payload: {to: all}}`

// planned waits until the schedule has been looked at, and returns what is due next.
func (g *rig) planned() time.Time {
	g.t.Helper()
	testkit.Eventually(g.t, 10*time.Second, func() (bool, string) {
		return one[int](g, `select count(*) from perdure.schedules where next_at > now()`) == 1, "nothing is planned"
	})
	return one[time.Time](g, `select next_at from perdure.schedules`)
}

// TestADueTimeIsFiledOnce: by two relays at once, after times that nobody saw,
// and not again by the relays after them.
func TestADueTimeIsFiledOnce(t *testing.T) {
	t.Parallel()
	g := recurring(t, newYear)
	first := g.run(g.relay("a", nil))
	if next := g.planned().UTC(); next.Month() != time.January || next.Day() != 1 || next.Hour() != 0 {
		t.Fatalf("planned for %s", next)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if n := one[int](g, `select count(*) from perdure.outbox`); n != 0 {
		t.Fatalf("%d tasks are filed before anything was due", n)
	}
	g.exec(`update perdure.schedules set next_at = '2020-01-01 00:00:00Z'`)
	b, c := g.run(g.relay("b", nil)), g.run(g.relay("c", nil))
	rec := g.first(1, g.names.Tasks("mail"))[0]
	task, err := schemas.DecodeRecord(rec.Key, rec.Value, rec.Headers)
	if err != nil {
		t.Fatal(err)
	}
	if string(task.Payload) != `{"to":"all"}` || task.Kind != "greet" || task.Headers[HeaderScheduledFor] != "2020-01-01T00:00:00Z" {
		t.Errorf("filed %s %s %v", task.Kind, task.Payload, task.Headers)
	}
	if left := task.Deadline.Sub(task.Time); left.Round(time.Second) != time.Hour {
		t.Errorf("it expires after %s, want 1h", left)
	}
	for _, r := range []*running{b, c} {
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	g.run(g.relay("d", nil))
	g.exec(`insert into perdure.outbox (kind, queue, payload) values ('post', 'mail', '{}')`)
	g.first(2, g.names.Tasks("mail"))
	if n := one[int](g, `select count(*) from perdure.outbox where kind = 'greet'`); n != 1 {
		t.Errorf("%d tasks are filed for one due time, want 1", n)
	}
	if fired := one[int](g, `select fired from perdure.schedules`); fired != 1 {
		t.Errorf("fired is %d, want 1", fired)
	}
}

// TestAReplacedRelayFilesNothing: neither under a fence that is lost, nor for a
// time that was filed since it looked.
func TestAReplacedRelayFilesNothing(t *testing.T) {
	t.Parallel()
	g := recurring(t, newYear)
	due := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	type outcome struct{ again, lost error }
	got := make(chan outcome, 1)
	r := g.relay("a", nil)
	done := false
	r.seams.beforeRead = func(ctx context.Context, tm *term) error {
		if done {
			return nil
		}
		done = true
		if _, err := tm.recur(ctx); err != nil {
			return err
		}
		g.exec(`update perdure.schedules set next_at = $1`, due)
		file := func() error {
			c := tm.commit(holdCursor)
			if err := c.file(r.schedules[0], due, due.AddDate(50, 0, 0)); err != nil {
				return err
			}
			return c.run(ctx)
		}
		var o outcome
		o.again = errors.Join(file(), file())
		g.exec(`update perdure.schedules set next_at = $1`, due)
		g.setCursor(tm, `fence = fence + 1`)
		_, o.lost = tm.recur(ctx)
		got <- o
		return errLeaseLost
	}
	g.run(r)
	o := <-got
	if o.again != nil || !errors.Is(o.lost, errLeaseLost) {
		t.Errorf("filing twice: %v; with a lost fence: %v, want errLeaseLost", o.again, o.lost)
	}
	if n := one[int](g, `select count(*) from perdure.outbox`); n != 1 {
		t.Errorf("%d tasks are filed, want the one", n)
	}
}

// TestAChangedScheduleBeginsAnew: what was due by the old one is not filed, and
// what the catalog no longer names is forgotten.
func TestAChangedScheduleBeginsAnew(t *testing.T) {
	t.Parallel()
	g := recurring(t, newYear)
	stop := func(r *running) {
		t.Helper()
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	run := g.run(g.relay("a", nil))
	g.planned()
	stop(run)
	g.exec(`update perdure.schedules set next_at = '2020-01-01 00:00:00Z'`)
	g.schedule(`schedule: {cron: "30 12 24 12 *", time_zone: Europe/Berlin}`)
	run = g.run(g.relay("b", nil))
	if next := g.planned().UTC(); next.Month() != time.December || next.Hour() != 11 {
		t.Errorf("planned for %s, want 12:30 in Berlin on 24 December", next)
	}
	stop(run)
	g.exec(`update perdure.schedules set next_at = '2020-01-01 00:00:00Z'`)
	g.schedule(`order: none`)
	run = g.run(g.relay("c", nil))
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		n := one[int](g, `select count(*) from perdure.schedules`)
		return n == 0, fmt.Sprintf("%d schedules are kept", n)
	})
	stop(run)
	if n := one[int](g, `select count(*) from perdure.outbox`); n != 0 {
		t.Errorf("%d tasks were filed, want none", n)
	}
}

func TestAScheduleOfAnotherSourceIsNotOurs(t *testing.T) {
	t.Parallel()
	g := recurring(t, `schedule: {cron: "@daily", source: billing}`)
	if k := schedulesOf(g.cat, "main"); len(k) != 0 {
		t.Errorf("main files %d kinds", len(k))
	}
	if k := schedulesOf(g.cat, "billing"); len(k) != 1 || !slices.Contains(g.cat.KindNames(), k[0].Name) {
		t.Errorf("billing files %d kinds, want 1", len(k))
	}
}

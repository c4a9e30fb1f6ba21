package relay

// One active relay; another takes over, at once or when the lease runs out; a
// holder that lost its fence moves nothing.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/testkit"
)

func active(r *Relay) func() (bool, string) {
	return func() (bool, string) {
		s := r.Status()
		return s.State == StateActive, fmt.Sprintf("state %s, %v", s.State, s.Err)
	}
}

func TestStandbyTakesOverAtOnceFromOneThatStops(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	a := g.relay("a", func(c *Config) { c.LeaseTTL = time.Hour })
	b := g.relay("b", func(c *Config) { c.LeaseTTL = time.Hour })
	first := g.run(a)
	testkit.Eventually(t, 10*time.Second, active(a))
	g.run(b)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		s := b.Status()
		return s.State == StateStandby && s.Ready() == nil, string(s.State)
	})
	g.enqueue("k", 1)
	g.drained(5 * time.Second)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, active(b)) // an hour's lease would not end
	g.enqueue("k", 2)
	g.right()
}

// A holder that is stopped, or whose host is gone, keeps its session.
func TestLeaseOfADeadRelayRunsOut(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`insert into perdure.relay_lease (shard, owner, fence, knows_bundles, until)
		values ('main', 'dead', 41, 41, clock_timestamp() + interval '1500 ms')`)
	end := one[time.Time](g, `select until from perdure.relay_lease`)
	session := g.begin()
	if _, err := session.Exec(t.Context(), `select pg_advisory_lock(hashtext('main'), 41)`); err != nil {
		t.Fatal(err)
	}
	r := g.relay("a", nil)
	g.run(r)
	testkit.Eventually(t, 10*time.Second, active(r))
	if late := one[bool](g, `select moved_at >= $1 and fence = 42 from perdure.relay_cursor`, end); !late {
		t.Error("it did not wait for the lease's end, or the fence did not grow from the dead relay's")
	}
	if r.Status().Fence != 42 {
		t.Errorf("fence %d, want 42", r.Status().Fence)
	}
}

// The server ends a killed process's session: its lease is taken long before its end.
func TestLeaseOfAKilledRelayIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`insert into perdure.relay_lease (shard, owner, fence, knows_bundles, until)
		values ('main', 'killed', 41, 41, clock_timestamp() + interval '1 hour')`)
	session := g.begin()
	if _, err := session.Exec(t.Context(), `select pg_advisory_lock(hashtext('main'), 41)`); err != nil {
		t.Fatal(err)
	}
	r := g.relay("a", nil)
	g.run(r)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) { return r.Status().State == StateStandby, string(r.Status().State) })
	if err := session.Conn().Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, active(r))
	if r.Status().Fence != 42 {
		t.Errorf("fence %d, want 42", r.Status().Fence)
	}
	// The lock that the standby tried is given back; the new holder's is held.
	if got := one[string](g, `select string_agg(objid::text, ' ') from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`); got != "42" {
		t.Errorf("locks of fences %q are held, want 42's", got)
	}
}

// A namesake may be a second process started by mistake: it must wait.
func TestNamesakeWaitsForTheLease(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	a, b := g.relay("same", nil), g.relay("same", nil)
	g.run(a)
	testkit.Eventually(t, 10*time.Second, active(a))
	g.run(b)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) { return b.Status().State == StateStandby, "not a standby" })
	g.enqueue("k", 1)
	g.right()
	if !func() bool { ok, _ := active(a)(); return ok }() {
		t.Error("the holder lost its lease to its namesake")
	}
}

// What a holder does that was stopped (SIGSTOP, a paused VM) after it produced:
// its fence has been passed, so that it can move, log and file nothing.
func TestHolderThatWasStoppedMovesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	a := g.relay("a", func(c *Config) { c.LeaseTTL = time.Hour })
	stopped, resume := make(chan struct{}), make(chan struct{})
	a.seams.beforeCursor = func(context.Context, *term, *window) error {
		select {
		case <-stopped:
		default:
			close(stopped)
			<-resume
		}
		return nil
	}
	g.enqueue("k", 1)
	g.exec(`insert into perdure.outbox (kind, queue, run_at, payload) values ('pay', 'payments', now() + interval '1 hour', '{}')`)
	g.run(a)
	<-stopped
	g.exec(`update perdure.relay_lease set until = clock_timestamp()`) // its time has run out
	b := g.relay("b", nil)
	g.run(b)
	testkit.Eventually(t, 10*time.Second, active(b))
	g.drained(5 * time.Second)
	before := one[string](g, `select (prev::text, at_id, fence)::text from perdure.relay_cursor`)
	close(resume)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) { return a.Status().State == StateStandby, string(a.Status().State) })
	if after := one[string](g, `select (prev::text, at_id, fence)::text from perdure.relay_cursor`); after != before {
		t.Errorf("the cursor was %s, is %s", before, after)
	}
	if n := one[int](g, `select count(*) from perdure.relay_log`); n != 1 {
		t.Errorf("%d rows in the relay log, want 1", n)
	}
	g.right()
}

// Renewing fails for as long as the lease lasts: the holder must stop by itself.
func TestHolderThatCannotRenewStops(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", func(c *Config) { c.LeaseTTL = time.Second })
	tm := &term{r: r, fence: 1}
	down, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nowhere")
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	r.deps.DB = down
	began := time.Now()
	err = tm.keepLease(t.Context())
	if !errors.Is(err, errLeaseLost) || time.Since(began) < time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestRelayGoesOnWhenItsConnectionsAreCut(t *testing.T) {
	g := newRig(t)
	r := g.relay("a", nil)
	g.run(r)
	l := g.load(4, 9, func() string { return g.url })
	for range 5 {
		l.reach(l.done.Load() + 60)
		g.exec(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'perdure-relay' and datname = current_database()`)
	}
	l.end()
	g.settlePrepared(g.prepared())
	g.right()
}

func TestTwoRelaysShareNothingButTheLease(t *testing.T) {
	g := newRig(t)
	l := g.load(4, 5, func() string { return g.url })
	for round := range 4 { // each takes the lease from the other by force
		r := g.relay(fmt.Sprintf("r%d", round), func(c *Config) { c.Chunk = 50 })
		g.run(r)
		l.reach(l.done.Load() + 100)
		g.exec(`update perdure.relay_lease set until = clock_timestamp()`)
	}
	l.end()
	g.settlePrepared(g.prepared())
	g.right()
}

// A transaction that is open, and has written, in this database or in another
// one of the cluster, delays nobody.
func TestOpenTransactionsDelayNobody(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"15", "18"} {
		t.Run("postgres "+version, func(t *testing.T) {
			t.Parallel()
			g, server := newOwnRig(t, version)
			g.exec(`create database elsewhere`)
			other, err := pgx.Connect(t.Context(), server.URLFor("elsewhere"))
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close(context.Background())
			elsewhere, err := other.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := elsewhere.Exec(t.Context(), `create table t (n int)`); err != nil {
				t.Fatal(err)
			}
			here := g.begin()
			g.enqueueIn(here, "x", 1)
			g.run(g.relay("a", nil))
			g.enqueue("k", 1)
			g.first(1, g.names.Tasks("payments")) // both are open
			for n := range 50 {
				g.enqueue("k", 2+n)
			}
			g.first(51, g.names.Tasks("payments"))
			g.commit(here)
			g.first(52, g.names.Tasks("payments"))
			if err := elsewhere.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			g.right()
		})
	}
}

package relay

import (
	"context"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// awaits starts a relay whose waits take a hundred seconds if nothing ends them.
func (g *rig) awaits() *running {
	g.t.Helper()
	x := g.run(g.relay("a", func(c *Config) {
		c.Idle, c.Upkeep = time.Second, time.Hour
		c.LeaseTTL = 20 * time.Minute // a renewal is a write too
	}))
	g.awaited()
	return x
}

const awaiting = `from pg_stat_activity where datname = current_database() and query like 'select perdure.await_write%' and state = 'active' and wait_event = 'PgSleep'`

// awaited waits until the relay lets the database wait, and returns that session.
func (g *rig) awaited() (pid int) {
	g.t.Helper()
	testkit.Eventually(g.t, time.Minute, func() (bool, string) {
		pid = one[int](g, `select coalesce(max(pid), 0) `+awaiting)
		return pid != 0, "no session waits for a write"
	})
	return pid
}

// within fails where a wait was ended by something else: by the next look at what
// is due (a minute), or by a write of the server's own (it was seen after 30 s).
func within(t *testing.T, began time.Time) {
	t.Helper()
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestAWriteEndsTheWait(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.awaits()
	began := time.Now()
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
	within(t, began)
	g.awaited() // and it waits again
}

func TestWhatIsDueEndsTheWait(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.awaits()
	began := time.Now()
	g.exec(`insert into perdure.outbox (kind, queue, run_at, payload) values ('post', 'mail', now() + interval '3 s', '{}')`)
	g.awaited()
	g.first(1, g.names.Tasks("mail"))
	within(t, began)
}

func TestALostWaitIsOnlyAPause(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.awaits()
	fence := one[int64](g, `select fence from perdure.relay_lease`)
	if !one[bool](g, `select pg_terminate_backend($1)`, g.awaited()) {
		t.Fatal("the session was not ended")
	}
	began := time.Now()
	g.enqueue("k", 1)
	g.first(1, g.names.Tasks("payments"))
	within(t, began)
	g.awaited() // on a new session
	if now := one[int64](g, `select fence from perdure.relay_lease`); now != fence {
		t.Errorf("a new term began: fence %d, then %d", fence, now)
	}
}

func TestAStopEndsTheWait(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	x := g.awaits()
	began := time.Now()
	if err := x.stop(); err != nil {
		t.Fatal(err)
	}
	within(t, began)
	if !one[bool](g, `select until <= clock_timestamp() from perdure.relay_lease`) {
		t.Error("the lease was not given back")
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return one[int](g, `select count(*) `+awaiting) == 0, "the session waits on"
	})
}

func TestTheEndOfTheTermEndsTheWait(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	defer tm.watch.close()
	tm.empty = one[string](g, `select pg_current_snapshot()::text`)
	tm.upkeep = time.Now().Add(time.Hour)
	work, end := context.WithCancel(t.Context())
	began, done := time.Now(), make(chan struct{})
	go func() { defer close(done); tm.await(t.Context(), work, time.Second) }()
	g.awaited()
	end()
	<-done
	within(t, began)
}

// A busy database whose outbox is empty is looked at after each pause, and no more
// often: what others write ends a wait at once.
func TestOthersWritesDoNotMakeItSpin(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	reads := make(chan struct{}, 100_000)
	r := g.relay("a", func(c *Config) { c.Idle, c.LeaseTTL = 50*time.Millisecond, time.Minute })
	r.seams.beforeRead = func(context.Context, *term) error { reads <- struct{}{}; return nil }
	g.run(r)
	g.awaited()
	began, before := time.Now(), len(reads)
	writes := 0
	for ; time.Since(began) < 2*time.Second; writes++ {
		g.exec(`select pg_current_xact_id()`)
	}
	// Each pause is 50 ms at least, so there can't be more reads than those.
	most := int(time.Since(began)/(50*time.Millisecond)) + 2
	if n := len(reads) - before; n > most || n == 0 {
		t.Errorf("%d reads, of at most %d, while others wrote %d times", n, most, writes)
	}
}

package relay

// What a review found: each of these lost a task, or let an id come twice, or
// ended the process, before it was mended.

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// A database dropped and made anew in the same cluster has the same system
// identifier and no cursor. Once its sequence has passed Kafka's id nothing but
// the database's own oid tells that its ids were used already.
func TestADatabaseMadeAnewUnderTheSameSourceHalts(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	run := g.run(g.relay("a", nil))
	g.enqueue("k", 1)
	g.drained(10 * time.Second)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}

	anew, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer anew.Close()
	g.db = anew
	for n := range 5 {
		g.enqueue("k", n)
	}
	for range 2 { // also the second time, when there is a cursor
		b := g.relay("b", nil)
		run := g.run(b)
		testkit.Eventually(t, 10*time.Second, func() (bool, string) { return b.Status().State == StateHalted, string(b.Status().State) })
		err = run.stop()
		var h *HaltError
		if !errors.As(err, &h) || h.Reason != HaltSource {
			t.Fatalf("got %v, want a halt with reason %s", err, HaltSource)
		}
	}
	if n := len(g.sent()); n != 1 {
		t.Errorf("%d records on Kafka, want 1", n)
	}
}

// A holder that wakes after another has relayed further must not write its own,
// lower id over the other's: after a restore that id is all that warns.
func TestAStoppedHolderDoesNotTurnBackWhatKafkaKnows(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	a := g.relay("a", func(c *Config) { c.LeaseTTL = time.Hour })
	stopped, resume := make(chan struct{}), make(chan struct{})
	passes := 0
	a.seams.beforeCursor = func(context.Context, *term, *window) error {
		if passes++; passes == 2 {
			close(stopped)
			<-resume
		}
		return nil
	}
	g.run(a)
	g.enqueue("k", 1)
	g.drained(10 * time.Second)
	g.enqueue("k", 2)
	<-stopped
	g.exec(`update perdure.relay_lease set until = clock_timestamp()`) // its time has run out
	b := g.relay("b", nil)
	run := g.run(b)
	testkit.Eventually(t, 10*time.Second, active(b))
	last := g.enqueue("k", 3)
	g.drained(5 * time.Second)
	if err := run.stop(); err != nil { // writes 3
		t.Fatal(err)
	}
	close(resume)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) { // a is active again: it has read the key
		return a.Status().State == StateActive && a.Status().Fence > b.fence, string(a.Status().State)
	})
	known, err := a.readControl(t.Context(), g.adm)
	if err != nil || known == nil || known.Seq != last {
		t.Fatalf("Kafka knows %+v (%v), want %d", known, err, last)
	}
}

// A URL made for a pooler asks for pgx's simple protocol; the relay reads binary.
func TestAURLForThePoolerDoesNotEndTheRelay(t *testing.T) {
	g := newRig(t)
	u, err := url.Parse(g.url)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("default_query_exec_mode", "simple_protocol")
	u.RawQuery = q.Encode()
	pool, err := pg.Pool(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r := g.relay("a", nil)
	r.deps.DB = pool
	run := g.run(r)
	g.enqueue("k", 1)
	g.drained(10 * time.Second)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(g.sent()); n != 1 {
		t.Errorf("%d records on Kafka, want 1", n)
	}
}

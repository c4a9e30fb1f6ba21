package relay

// Partitions of the outbox: ahead, behind, and the overflow between.

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/perdure/perdure/internal/testkit"
)

// upkeep is a term without a loop, for one step at a time.
func (g *rig) upkeep(history time.Duration) *term {
	g.t.Helper()
	r := g.relay("upkeep", func(c *Config) { c.History = history; c.LeaseTTL = time.Hour })
	conn, err := r.connect(context.Background())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close(context.Background()) })
	is, err := r.identify(context.Background(), conn)
	if err != nil {
		g.t.Fatal(err)
	}
	t := &term{r: r, conn: conn, is: is, words: map[string]string{}, limit: 100, parked: map[string]string{}}
	if _, err := t.standby(context.Background()); err != nil {
		g.t.Fatal(err)
	}
	return t
}

// look looks after partitions until it has nothing more to make.
func (g *rig) look(t *term) {
	g.t.Helper()
	for again := true; again; {
		t.upkeep = time.Now().Add(time.Hour)
		if err := t.lookAfterPartitions(context.Background()); err != nil {
			g.t.Fatal(err)
		}
		again = t.upkeep.Before(time.Now())
	}
}

// where is the partition that holds a row.
func (g *rig) where(id int64) string {
	return one[string](g, `select coalesce((select c.relname from perdure.outbox o join pg_class c on c.oid = o.tableoid where o.id = $1), 'nowhere')`, id)
}

// setCursor changes the cursor by hand, and tells the term where its row is now: what
// the term does then is not stopped by a place that it does not know.
func (g *rig) setCursor(tm *term, set string, args ...any) {
	g.t.Helper()
	tm.place = one[pgtype.TID](g, `update perdure.relay_cursor set `+set+` returning ctid`, args...)
}

// passAll marks everything as relayed, as a relay would.
func (g *rig) passAll(tm *term) {
	g.setCursor(tm, `prev = pg_current_snapshot(), upto = null, at_id = 0`)
}

func TestPartitionsAreMadeAhead(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	g.exec(`select setval('perdure.outbox_id_seq', 5500000)`)
	g.look(tm)
	leaves, err := tm.leaves(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	top := int64(0)
	for _, l := range leaves {
		top = max(top, l.hi)
	}
	if top < 5_500_000+16*partitionSize {
		t.Errorf("partitions end at %d", top)
	}
	g.exec(`select setval('perdure.outbox_id_seq', 20000000)`)
	if got := g.where(g.enqueue("k", 1)); got != "outbox_p0000000020" {
		t.Errorf("the row is in %s", got)
	}
}

// A row that somebody gave an id of their own, above the sequence, is passed over: the
// log says so, and of the sequence's own ids it says nothing.
func TestIdsThatTheSequenceHasNotGivenAreToldOf(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	var log bytes.Buffer
	tm.r.log = slog.New(slog.NewTextHandler(&log, nil))
	const told = "ids that its sequence has not given"
	g.exec(`select setval('perdure.outbox_id_seq', 40123456)`)
	g.enqueue("k", 1) // in the overflow partition, and its own
	g.look(tm)
	if strings.Contains(log.String(), told) {
		t.Errorf("of ids of the sequence: %s", &log)
	}
	g.exec(`insert into perdure.outbox (id, kind, queue, payload) values (900000000, 'post', 'mail', '{}')`)
	g.look(tm)
	if !strings.Contains(log.String(), told) || !strings.Contains(log.String(), "highest=900000000") {
		t.Errorf("of an id that is not: %s", &log)
	}
}

// A relay that was away for long finds rows in the overflow partition: they are
// relayed, and new partitions begin above them.
func TestRowsInTheOverflowAreRelayedAndNewPartitionsBeginAbove(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`select setval('perdure.outbox_id_seq', 40123456)`)
	id := g.enqueue("k", 1)
	if got := g.where(id); got != "outbox_overflow" {
		t.Fatalf("the row is in %s", got)
	}
	open := g.begin() // a writer that keeps the overflow partition busy
	g.enqueueIn(open, "x", 1)
	g.run(g.relay("a", func(c *Config) { c.Upkeep = 50 * time.Millisecond }))
	g.first(1, g.names.Tasks("payments"))
	g.commit(open)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		return one[bool](g, `select to_regclass('perdure.outbox_p0000000056') is not null`), "no partition ends 16 above the sequence"
	})
	g.exec(`select setval('perdure.outbox_id_seq', 43000000)`)
	if got := g.where(g.enqueue("k", 2)); got != "outbox_p0000000043" {
		t.Errorf("the row is in %s", got)
	}
	g.right()
}

func TestOldPartitionsAreEmptiedThenDropped(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	old := g.enqueue("k", 1)
	g.exec(`select setval('perdure.outbox_id_seq', 1000000)`)
	young := g.enqueue("k", 2)
	g.exec(`select setval('perdure.outbox_id_seq', 2000000)`)
	g.exec(`update perdure.outbox set created_at = now() - interval '2 hours' where id = $1`, old)

	g.look(tm)
	if g.where(old) == "nowhere" {
		t.Fatal("a row was deleted that is not relayed")
	}
	g.passAll(tm)
	g.exec(`insert into perdure.relay_log (shard, first_id, last_id, tasks, replays, hops) values ('main', 1, 1, 1, 0, '\x010000')`)
	g.look(tm)
	if g.where(old) == "nowhere" {
		t.Fatal("a row was deleted that was relayed within the history")
	}
	g.exec(`update perdure.relay_log set relayed_at = now() - interval '2 hours'`)

	// Whoever reads the outbox keeps the parent's lock: the leaf is emptied, not dropped.
	g.look(tm)
	if got := g.where(old); got != "nowhere" {
		t.Fatalf("the old row is still in %s", got)
	}
	reader := g.begin()
	if _, err := reader.Exec(t.Context(), `lock table only perdure.outbox in access share mode`); err != nil {
		t.Fatal(err)
	}
	g.look(tm)
	if !one[bool](g, `select to_regclass('perdure.outbox_p0000000000') is not null`) {
		t.Error("dropped although the outbox was being read")
	}
	g.commit(reader)
	g.look(tm)
	if one[bool](g, `select to_regclass('perdure.outbox_p0000000000') is not null`) {
		t.Error("an empty partition is not dropped")
	}
	if g.where(young) == "nowhere" {
		t.Error("a young row was deleted")
	}
}

// The protocol's trap: a row of the old partition that commits at the last
// moment. While it is open the lock cannot be had; once committed the new
// statement sees it.
func TestLateCommitKeepsItsPartition(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Millisecond)
	late := g.begin()
	id := g.enqueueIn(late, "k", 1)
	g.exec(`select setval('perdure.outbox_id_seq', 1000000)`)
	g.passAll(tm)
	leaf0 := leaf{"outbox_p0000000000", 0, partitionSize}
	if err := tm.emptyLeaf(t.Context(), leaf0); !lockBusy(err) {
		t.Errorf("with the row open: %v, want a busy lock", err)
	}
	g.commit(late)
	if err := tm.emptyLeaf(t.Context(), leaf0); !errors.Is(err, errNotEmpty) {
		t.Errorf("with the row committed and not relayed: %v", err)
	}
	if g.where(id) == "nowhere" {
		t.Fatal("the late row was deleted")
	}
	g.passAll(tm)
	if err := tm.emptyLeaf(t.Context(), leaf0); err != nil {
		t.Error(err)
	}
	// An id reserved before, written after the partition is gone, finds a place.
	if err := tm.emptyLeaf(t.Context(), leaf0); err != nil {
		t.Error(err)
	}
	g.exec(`insert into perdure.outbox (id, kind, queue, payload) values (77, 'pay', 'payments', '{}')`)
	if got := g.where(77); got != "outbox_overflow" {
		t.Errorf("the row is in %s", got)
	}
}

// A holder that lost its fence truncates nothing.
func TestUpkeepNeedsTheFence(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Millisecond)
	id := g.enqueue("k", 1)
	g.passAll(tm)
	g.setCursor(tm, `fence = fence + 1`)
	if err := tm.emptyLeaf(t.Context(), leaf{"outbox_p0000000000", 0, partitionSize}); !errors.Is(err, errLeaseLost) {
		t.Errorf("emptying: %v", err)
	}
	if err := tm.makePartition(t.Context(), leaf{"outbox_p0000000099", 99_000_000, 100_000_000}); !errors.Is(err, errLeaseLost) {
		t.Errorf("making: %v", err)
	}
	if g.where(id) == "nowhere" {
		t.Error("the row was deleted")
	}
}

// A role that may not make partitions, or anything else: the overflow partition
// takes the rows, and they are relayed.
func TestUpkeepThatFailsStopsNoPass(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.exec(`create function public.refuse() returns event_trigger language plpgsql as $$ begin raise exception 'no tables today'; end $$`)
	g.exec(`create event trigger refuse on ddl_command_start when tag in ('CREATE TABLE') execute function public.refuse()`)
	r := g.relay("a", func(c *Config) { c.Upkeep = 10 * time.Millisecond })
	g.run(r)
	g.exec(`select setval('perdure.outbox_id_seq', 20000000)`)
	g.enqueue("k", 1)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		var m dto.Metric
		err := r.metrics.upkeepErrors.Write(&m)
		return err == nil && m.GetCounter().GetValue() > 0, "upkeep did not fail"
	})
	g.enqueue("k", 2)
	g.right()
}

func TestOverflowIsEmptiedByRows(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	tm := g.upkeep(time.Hour)
	g.exec(`select setval('perdure.outbox_id_seq', 40000000)`)
	old, unrelayed := g.enqueue("k", 1), int64(0)
	g.exec(`update perdure.outbox set created_at = now() - interval '2 hours'`)
	g.passAll(tm)
	unrelayed = g.enqueue("k", 2)
	g.exec(`update perdure.outbox set created_at = now() - interval '2 hours' where id = $1`, unrelayed)
	g.look(tm)
	if g.where(old) != "nowhere" || g.where(unrelayed) == "nowhere" {
		t.Errorf("relayed row in %s, unrelayed in %s", g.where(old), g.where(unrelayed))
	}
}

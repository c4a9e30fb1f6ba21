package relay

// A replaced database, on real servers: noticed, halted, explained, mended by a
// reset; then tasks flow again, and no id ever stands for two tasks.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// binary is one of the server's own programs. It asks the server once.
func (g *rig) binary(name string) string {
	g.t.Helper()
	if g.bin == "" {
		g.bin = one[string](g, `select setting from pg_config where name = 'BINDIR'`)
	}
	return filepath.Join(g.bin, name)
}

// tool runs one of the server's own programs.
func (g *rig) tool(in []byte, name string, args ...string) []byte {
	g.t.Helper()
	cmd := exec.Command(g.binary(name), args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("%s: %v: %s", name, err, stderr.Bytes())
	}
	return out
}

// backup copies the running cluster; standby makes the copy follow it.
func (g *rig) backup(server *embedded.Postgres, standby bool) (dir string) {
	g.t.Helper()
	dir = filepath.Join(filepath.Dir(server.Dir()), "copy-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	g.t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // a temporary directory
	args := []string{"-D", dir, "-d", server.URL(), "-X", "stream", "-c", "fast"}
	if standby {
		args = append(args, "-R")
	}
	g.tool(nil, "pg_basebackup", args...)
	info, err := os.Stat(server.Dir())
	if err != nil {
		g.t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, int(owner.Uid), int(owner.Gid)))
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return dir
}

// start runs a server on a copy and points the rig at it.
func (g *rig) start(server *embedded.Postgres, dir string) {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil {
		g.t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		g.t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	cmd := exec.Command(g.binary("postgres"), "-D", dir, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "max_connections=200", "-c", "max_prepared_transactions=20")
	cmd.Dir = dir
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT) //nolint:errcheck // a fast shutdown, if it still runs
		if err := cmd.Wait(); err != nil {
			g.t.Logf("postgres on %s: %v", dir, err)
		}
	})
	u, err := url.Parse(server.URL())
	if err != nil {
		g.t.Fatal(err)
	}
	u.Host = "127.0.0.1:" + port
	g.use(u.String())
}

// use points the rig at another database.
func (g *rig) use(url string) {
	g.t.Helper()
	testkit.Eventually(g.t, 30*time.Second, func() (bool, string) {
		conn, err := pgx.Connect(context.Background(), url)
		if err != nil {
			return false, err.Error()
		}
		return conn.Close(context.Background()) == nil, ""
	})
	db, err := pg.Pool(context.Background(), url)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(db.Close)
	g.url, g.db = url, db
}

// relayed enqueues n tasks and has a relay of its own send them.
func (g *rig) relayAll(n int) {
	g.t.Helper()
	run := g.run(g.relay("before", nil))
	for i := range n {
		g.enqueue("k", i)
	}
	g.drained(20 * time.Second)
	if err := run.stop(); err != nil {
		g.t.Fatal(err)
	}
}

// halts runs a relay that must halt.
func (g *rig) halts(reason HaltReason) *HaltError {
	g.t.Helper()
	r := g.relay("after", nil)
	run := g.run(r)
	testkit.Eventually(g.t, 20*time.Second, func() (bool, string) { return r.Status().State == StateHalted, string(r.Status().State) })
	var h *HaltError
	if err := run.stop(); !errors.As(err, &h) || h.Reason != reason {
		g.t.Fatalf("got %v, want a halt with reason %s", err, reason)
	}
	return h
}

func (g *rig) reset(opt ResetOptions) (*ResetReport, error) {
	opt.Who = "test"
	r := g.relay("reset", nil)
	return Reset(context.Background(), r.cfg, r.deps, opt)
}

// mends resets, after a dry run that must change nothing, and sees tasks flow.
// It returns the report.
func (g *rig) mends(opt ResetOptions) *ResetReport {
	g.t.Helper()
	const state = `select (s.generation, c.prev::text, c.upto::text, c.at_id, c.system_id, c.fence, q.last_value, q.is_called,
  (select count(*) from perdure.held), (select count(*) from perdure.parked), (select count(*) from perdure.scheduled), (select count(*) from perdure.audit))::text
from perdure.source s, perdure.relay_cursor c, perdure.outbox_id_seq q`
	before := one[string](g, state)
	dry := opt
	dry.DryRun = true
	would, err := g.reset(dry)
	if err != nil {
		g.t.Fatal(err)
	}
	if after := one[string](g, state); after != before {
		g.t.Fatalf("a dry run changed %s to %s", before, after)
	}
	did, err := g.reset(opt)
	if err != nil {
		g.t.Fatal(err)
	}
	if !maps.Equal(did.Held, would.Held) || did.Sent != would.Sent || did.Generation != would.Generation || did.Sequence != would.Sequence || len(did.Found) == 0 {
		g.t.Errorf("the dry run said %+v, the reset %+v", would, did)
	}
	if n := one[int](g, `select count(*) from perdure.audit where what = 'outbox reset' and who = 'test'`); n != 1 {
		g.t.Errorf("%d rows in the audit", n)
	}
	r := g.relay("mended", nil)
	run := g.run(r)
	var first int64
	for n := range 3 {
		id := g.enqueue("k", 1000+n)
		if first == 0 {
			first = id
		}
	}
	if first <= did.KafkaSeq {
		g.t.Errorf("id %d is used again, Kafka has ids up to %d", first, did.KafkaSeq)
	}
	g.drained(20 * time.Second)
	testkit.Eventually(g.t, 10*time.Second, func() (bool, string) {
		return one[int](g, `select count(*) from perdure.parked`) == 0, "rows are still parked"
	})
	if err := run.stop(); err != nil {
		g.t.Fatal(err)
	}
	want := schemas.ID{Source: testkit.MigratedSource, Generation: did.Generation[1], Seq: first}.String()
	if ids := g.onKafka(); ids[want] == "" {
		g.t.Errorf("%s is not on Kafka: %v", want, slices.Sorted(maps.Keys(ids)))
	}
	again := g.run(g.relay("again", nil)) // and it stays mended
	g.enqueue("k", 1003)
	g.drained(20 * time.Second)
	if err := again.stop(); err != nil {
		g.t.Fatal(err)
	}
	var no *RefusedError
	if _, err := g.reset(opt); !errors.As(err, &no) {
		g.t.Errorf("a second reset: %v, want a refusal", err)
	}
	return did
}

// onKafka is every task on Kafka, id → payload; one id with two payloads fails.
func (g *rig) onKafka() map[string]string {
	g.t.Helper()
	ids := map[string]string{}
	name := g.names.Tasks("payments")
	ends, err := g.adm.ListEndOffsets(context.Background(), name)
	if err != nil {
		g.t.Fatal(err)
	}
	n := int64(0)
	for _, e := range ends.Offsets()[name] {
		n += e.At
	}
	for _, rec := range g.records(20*time.Second, func(all []*kgo.Record) bool { return int64(len(all)) >= n }, name) {
		id := header(rec, schemas.HeaderID)
		if was, ok := ids[id]; ok && was != string(rec.Value) {
			g.t.Errorf("id %s stands for %s and for %s", id, was, rec.Value)
		}
		ids[id] = string(rec.Value)
	}
	return ids
}

func heldSeqs(g *rig) string {
	return one[string](g, `select coalesce(string_agg(id::text, ' ' order by id), '') from perdure.held`)
}

func TestAnOlderBackupIsNoticedAndMended(t *testing.T) {
	t.Parallel()
	g, server := newOwnRig(t, "15")
	g.relayAll(3)
	g.bundle("k", 10, 2) // 4, 5: one row of the backup, not relayed by it
	g.exec(`insert into perdure.scheduled (id, due, generation, epoch, created_at, kind, queue, content_type, payload, checked)
	  values (-1, now() + interval '1 day', 1, 0, now(), 'pay', 'payments', 'application/json', '{}', true),
	         (-2, now() - interval '1 second', 1, 0, now(), 'pay', 'payments', 'application/json', '{}', true)`)
	dir := g.backup(server, false)
	g.exec(`delete from perdure.scheduled`)
	g.relayAll(40) // and far beyond: 33 ids more than WAL keeps of a sequence
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	g.db.Close()
	restarted := *g
	if err := server.Restart(t.Context()); err != nil { // only its programs are asked for
		t.Fatal(err)
	}
	g = &restarted
	g.use(server.URL())
	g.start(server, dir)
	other := g.enqueue("k", 77) // another task gets an id that Kafka has
	h := g.halts(HaltSequence)
	if !strings.Contains(h.Mend, "perdure outbox reset") {
		t.Errorf("it does not say what to do: %v", h)
	}
	rep := g.mends(ResetOptions{})
	if want := fmt.Sprintf("-2 4 5 %d", other); heldSeqs(g) != want || rep.Held["payments"] != 4 {
		t.Errorf("held are %s (%v), want %s", heldSeqs(g), rep.Held, want)
	}
	if n := one[int](g, `select count(*) from perdure.scheduled where id = -1`); n != 1 {
		t.Error("a task that is due tomorrow cannot have left, and is not scheduled any more")
	}

	// A person decides: 4 is Kafka's own, the other one must get a new id.
	list, total, err := ReadHeld(t.Context(), g.db, testkit.MigratedSource, 2)
	if err != nil || total != 4 || len(list) != 2 || list[1].ID != "main-1-4" {
		t.Fatalf("%+v %d %v", list, total, err)
	}
	if err := Discard(t.Context(), g.db, 4, "test", "Kafka has it"); err != nil {
		t.Fatal(err)
	}
	if as, err := Release(t.Context(), g.db, 5, false, "test"); err != nil || as != 5 {
		t.Fatal(as, err)
	}
	as, err := Release(t.Context(), g.db, other, true, "test")
	if err != nil || as <= rep.KafkaSeq {
		t.Fatal(as, err)
	}
	if err := Discard(t.Context(), g.db, 4, "test", ""); !errors.Is(err, ErrNotHeld) {
		t.Errorf("a second time: %v", err)
	}
	g.run(g.relay("last", nil))
	g.drained(20 * time.Second)
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		ids := g.onKafka()
		return ids["main-2-"+strconv.FormatInt(as, 10)] != "", "the released task is not on Kafka"
	})
	if n := one[int](g, `select count(*) from perdure.audit where what like 'held task%'`); n != 3 {
		t.Errorf("%d decisions in the audit, want 3", n)
	}
	if heldSeqs(g) != "-2" {
		t.Errorf("held are %s, want -2", heldSeqs(g))
	}
}

func TestAStandbyIsRefusedAndAFailoverThatLostCommitsMended(t *testing.T) {
	t.Parallel()
	g, server := newOwnRig(t, "15")
	g.relayAll(3)
	dir := g.backup(server, true)
	primary := *g
	g.start(server, dir)
	h := g.halts(HaltStandby)
	if !strings.Contains(h.Mend, "PERDURE_POSTGRES_DIRECT_URL") {
		t.Errorf("it does not say what to do: %v", h)
	}
	if _, err := g.reset(ResetOptions{}); !isHalt(err) {
		t.Errorf("a reset of a standby: %v", err)
	}
	for _, sql := range []string{`alter system set primary_conninfo = ''`, `select pg_reload_conf()`} {
		g.exec(sql)
	}
	testkit.Eventually(t, 10*time.Second, func() (bool, string) {
		return one[int](g, `select count(*) from pg_stat_wal_receiver`) == 0, "the standby still follows"
	})
	primary.relayAll(40)
	lost := one[int64](&primary, `select max(id) from perdure.outbox`)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if !one[bool](g, `select pg_promote()`) {
		t.Fatal("not promoted")
	}
	g.exec(`checkpoint`)
	here := g.enqueue("k", 77)
	g.halts(HaltTimeline)
	rep := g.mends(ResetOptions{})
	if rep.KafkaSeq != lost {
		t.Errorf("Kafka has ids up to %d, the reset found %d", lost, rep.KafkaSeq)
	}
	if want := strconv.FormatInt(here, 10); here > lost || heldSeqs(g) != want {
		t.Errorf("held are %s, want %s", heldSeqs(g), want)
	}
}

func TestADumpLoadedIntoANewClusterIsMended(t *testing.T) {
	t.Parallel()
	g, server := newOwnRig(t, "15")
	g.exec(`do $$ begin for i in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$`) // far ahead of a new cluster's
	g.relayAll(3)
	unsent := g.enqueue("k", 10)
	dump := g.tool(nil, "pg_dump", "-d", server.URL(), "-n", "perdure")
	fresh := testkit.OwnPostgres(t, "15")
	g.tool(dump, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", fresh.URL())
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	g.use(fresh.URL())
	since := g.enqueue("k", 11) // its xid is one that the old cursor takes for passed
	h := g.halts(HaltSystem)
	if !strings.Contains(h.Mend, "perdure outbox reset") {
		t.Errorf("it does not say what to do: %v", h)
	}
	var no *RefusedError
	if _, err := g.reset(ResetOptions{Upgraded: true}); !errors.As(err, &no) {
		t.Errorf("it passed for an upgrade: %v", err)
	}
	rep := g.mends(ResetOptions{})
	if rep.Sent != 2 || len(rep.Held) != 0 {
		t.Errorf("%d carried over and %v held, want 2 and none: Kafka has ids up to %d", rep.Sent, rep.Held, rep.KafkaSeq)
	}
	ids := g.onKafka()
	for _, seq := range []int64{unsent, since} {
		if ids["main-1-"+strconv.FormatInt(seq, 10)] == "" {
			t.Errorf("task %d did not arrive: %v", seq, slices.Sorted(maps.Keys(ids)))
		}
	}
	if n := one[int](g, `select count(*) from perdure.outbox where not pg_visible_in_snapshot(xid, pg_current_snapshot())`); n != 0 {
		t.Errorf("%d rows have xids of the old cluster and would come again", n)
	}
	if len(ids) != 3+2+4 {
		t.Errorf("%d tasks on Kafka, want 9", len(ids))
	}
}

// pg_upgrade keeps data, transactions and ids under a new system identifier.
func TestAfterAnUpgradeNothingIsHeld(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.relayAll(3)
	late := g.begin()
	lateID := g.enqueueIn(late, "x", 1) // below what is relayed next
	g.relayAll(3)
	g.commit(late)
	unsent := g.enqueue("k", 10)
	g.exec(`update perdure.relay_cursor set system_id = '7'`)
	if h := g.halts(HaltSystem); !strings.Contains(h.Mend, "--upgraded") {
		t.Errorf("it does not say what to do: %v", h)
	}
	rep := g.mends(ResetOptions{Upgraded: true})
	if len(rep.Held) != 0 || heldSeqs(g) != "" {
		t.Errorf("held are %v", rep.Held)
	}
	ids := g.onKafka()
	for _, seq := range []int64{lateID, unsent} {
		if ids["main-1-"+strconv.FormatInt(seq, 10)] == "" {
			t.Errorf("task %d did not arrive", seq)
		}
	}
}

func TestADatabaseMadeAnewIsMended(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.relayAll(3)
	g.use(testkit.MigratedPostgres(t).URL)
	for n := range 5 {
		g.enqueue("k", 50+n)
	}
	g.halts(HaltSource)
	if rep := g.mends(ResetOptions{}); heldSeqs(g) != "1 2 3" || rep.Sent != 2 {
		t.Errorf("held are %s, carried over %d", heldSeqs(g), rep.Sent)
	}
}

func TestResetIsRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	r := g.relay("a", nil)
	run := g.run(r)
	testkit.Eventually(t, 10*time.Second, active(r))
	refused := func(what, mend string) {
		t.Helper()
		var no *RefusedError
		if _, err := g.reset(ResetOptions{}); !errors.As(err, &no) || !strings.Contains(err.Error(), mend) {
			t.Errorf("%s: got %v, want a refusal that says %q", what, err, mend)
		}
	}
	refused("a relay is active", "stop every relay")
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	refused("nothing is wrong", "nothing to mend")
	g.enqueue("k", 1)
	g.exec(`update perdure.relay_cursor set timeline = '0000002A'`)
	tx := g.begin()
	g.enqueueIn(tx, "x", 1)
	refused("a writer is open", "pids [")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep := g.mends(ResetOptions{}); rep.Sent != 1 {
		t.Errorf("carried over %d, want 1", rep.Sent)
	}
}

// perdure.control lags by up to a second, and may be spoilt: the topics know.
func TestResetReadsFromTheTopicsWhatTheNoteDoesNotSay(t *testing.T) {
	t.Parallel()
	for name, note := range map[string]string{
		"lags":       `{"generation":1,"seq":2,"system_id":%q}`,
		"not ours":   `{%q`,
		"far behind": `{"generation":0,"seq":0,"system_id":%q}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t)
			g.relayAll(5)
			value := fmt.Appendf(nil, note, one[string](g, `select system_identifier::text from pg_control_system()`))
			g.produce(&kgo.Record{Topic: g.names.Control(), Key: []byte("relayed/main"), Value: value})
			g.exec(`update perdure.relay_cursor set timeline = '0000002A'`)
			g.exec(`delete from perdure.outbox where id > 2`)
			g.exec(`select setval('perdure.outbox_id_seq', 2)`)
			if rep := g.mends(ResetOptions{}); rep.KafkaSeq != 5 || rep.Sequence != [2]int64{2, 6} {
				t.Errorf("the reset found %+v, Kafka has ids up to 5", rep)
			}
		})
	}
}

package relay

// pg_upgrade itself, not only what it leaves: its new cluster goes on with the
// old one's transactions, ids and database, under another system identifier.

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/perdure/perdure/internal/embedded"
	"github.com/perdure/perdure/internal/testkit"
)

// upgrade stops the server, moves its data into a new cluster with pg_upgrade,
// and starts that one.
func (g *rig) upgrade(server *embedded.Postgres) {
	g.t.Helper()
	if _, err := os.Stat(g.binary("pg_upgrade")); err != nil {
		if os.Getenv(testkit.EnvRequireReal) == "1" {
			g.t.Fatal(err)
		}
		g.t.Skipf("pg_upgrade is not installed beside the server: %v", err)
	}
	g.db.Close()
	if err := syscall.Kill(server.PID(), syscall.SIGINT); err != nil { // pg_upgrade takes no crashed cluster
		g.t.Fatal(err)
	}
	<-server.Done()

	u, err := url.Parse(server.URL())
	if err != nil {
		g.t.Fatal(err)
	}
	password, _ := u.User.Password()
	info, err := os.Stat(server.Dir())
	if err != nil {
		g.t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	work, err := os.MkdirTemp(filepath.Dir(server.Dir()), "up") // short: a socket's path is limited to 107 bytes
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { os.RemoveAll(work) }) //nolint:errcheck // a temporary directory
	pwfile := filepath.Join(work, "pw")
	if err := os.WriteFile(pwfile, []byte(password), 0o600); err != nil {
		g.t.Fatal(err)
	}
	for _, path := range []string{work, pwfile} {
		if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			g.t.Fatal(err)
		}
	}
	asOwner := func(name string, args ...string) {
		g.t.Helper()
		cmd := exec.Command(g.binary(name), args...)
		cmd.Dir = work
		cmd.Env = []string{"HOME=" + work, "LC_ALL=C", "PGPASSWORD=" + password, "PATH=" + os.Getenv("PATH")}
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			g.t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	fresh := filepath.Join(work, "data")
	asOwner("initdb", "-D", fresh, "-U", u.User.Username(), "--pwfile", pwfile, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	asOwner("pg_upgrade", "-b", g.bin, "-B", g.bin, "-d", server.Dir(), "-D", fresh, "-U", u.User.Username(), "-s", work, "--link")
	g.start(server, fresh)
}

func TestAfterARealPgUpgradeNothingIsHeld(t *testing.T) {
	t.Parallel()
	g, server := newOwnRig(t, "15")
	g.relayAll(3)
	late := g.begin()
	g.enqueueIn(late, "x", 1) // below what is relayed next
	g.relayAll(3)
	g.commit(late)
	g.enqueue("x", 2)
	g.bundle("x", 3, 2)
	was := one[string](g, `select system_identifier::text from pg_control_system()`)
	g.upgrade(server)
	if is := one[string](g, `select system_identifier::text from pg_control_system()`); is == was {
		t.Fatal("the new cluster has the old one's identifier")
	}
	g.enqueue("x", 5) // written before anybody looked
	if h := g.halts(HaltSystem); !strings.Contains(h.Mend, "perdure outbox reset --upgraded") {
		t.Errorf("it does not say what to do: %v", h)
	}
	rep := g.mends(ResetOptions{Upgraded: true})
	if len(rep.Held) != 0 || heldSeqs(g) != "" {
		t.Errorf("held are %v", rep.Held)
	}
	times := map[int64]int{}
	for _, s := range g.sent() {
		times[s.id]++
	}
	rows := g.accepted()
	for _, row := range rows {
		if times[row.id] != 1 {
			t.Errorf("task %d is on Kafka %d times", row.id, times[row.id])
		}
	}
	if len(rows) != 3+1+3+1+2+1+4 || len(times) != len(rows) {
		t.Errorf("%d tasks on Kafka, %d in the database, want 15", len(times), len(rows))
	}
}

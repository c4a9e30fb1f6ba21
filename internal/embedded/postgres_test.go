package embedded

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// openDir is a directory whose parents everybody can enter, as t.TempDir's
// cannot be by an unprivileged server.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "perdure-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startPostgres(t *testing.T, cfg PostgresConfig) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var got string
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

// keep writes a row that check finds.
func keep(t *testing.T, url string) {
	t.Helper()
	query(t, url, `create table if not exists kept as select 'kept' as what`)
}

func check(t *testing.T, url string) {
	t.Helper()
	if got := query(t, url, `select what from kept`); got != "kept" {
		t.Fatalf("the committed row is %q", got)
	}
}

func TestPostgresSurvivesAStop(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"15", "18"} {
		t.Run(version, func(t *testing.T) {
			if version == "18" && testing.Short() {
				t.Skip("may have to be downloaded")
			}
			cfg := PostgresConfig{Dir: openDir(t), Version: version}
			p := startPostgres(t, cfg)
			keep(t, p.URL())
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if p.PID() != 0 {
				t.Error("a closed server has a pid")
			}
			cfg.Version = "" // the data's own
			p = startPostgres(t, cfg)
			check(t, p.URL())
			if !strings.HasPrefix(p.Version(), version+".") {
				t.Errorf("version is %s", p.Version())
			}
		})
	}
}

func TestPostgresSurvivesItsOwnKill(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{Dir: openDir(t)})
	keep(t, p.URL())
	done, url := p.Done(), p.URL()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-done
	if left := postgresOn(p.Dir()); len(left) != 0 {
		t.Fatalf("processes %v outlived the kill", left)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.URL() != url {
		t.Errorf("restarted elsewhere: %s, not %s", p.URL(), url)
	}
	check(t, p.URL())
}

// A killed `perdure up` must not leave a server, and the next must come up on
// what it left: the file postmaster.pid, perhaps a server still going down.
func TestPostgresSurvivesKill9OfItsParent(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	for range 2 {
		c := startChild(t, "postgres", dir)
		pidText, url, _ := strings.Cut(c.told, " ")
		keep(t, url)
		c.kill()
		pid, err := strconv.Atoi(pidText)
		if err != nil {
			t.Fatal(err)
		}
		if !goneWithin(pid, filepath.Join(dir, "data"), 10*time.Second) {
			t.Fatalf("postgres %d outlived its killed parent", pid)
		}
	}
	check(t, startPostgres(t, PostgresConfig{Dir: dir}).URL())
}

// Where no parent-death signal exists, or it was lost, the orphan is found by
// its directory and stopped.
func TestPostgresStopsAnOrphan(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	p := startPostgres(t, PostgresConfig{Dir: dir})
	keep(t, p.URL())
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	orphan := exec.Command(p.bin.path("postgres"), p.args()...)
	orphan.Dir, orphan.Env = p.home.data, serverEnv(p.home.data)
	orphan.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner.credential()}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); orphan.Wait() }()
	deadline := time.Now().Add(10 * time.Second)
	for readPID(filepath.Join(p.home.data, "postmaster.pid")) != orphan.Process.Pid {
		if time.Now().After(deadline) {
			t.Fatal("the orphan did not start")
		}
		time.Sleep(pollEvery) // poll
	}
	again := startPostgres(t, PostgresConfig{Dir: dir})
	<-ended
	check(t, again.URL())
}

// In a container pids are few: the number in a killed server's postmaster.pid
// soon belongs to somebody else, whom Postgres takes for a running server.
func TestPostgresIgnoresAPIDThatIsSomebodyElse(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	p := startPostgres(t, PostgresConfig{Dir: dir})
	keep(t, p.URL())
	pidFile := filepath.Join(p.Dir(), "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner.credential()}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Process.Kill(); err != nil {
			t.Errorf("the other process was killed: %v", err)
		}
		other.Wait()
	}()
	_, rest, _ := strings.Cut(string(content), "\n")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, startPostgres(t, PostgresConfig{Dir: dir}).URL())
}

func TestPostgresIsClosedByDefault(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{Dir: openDir(t)})
	open, err := pgx.ParseConfig(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"", "postgres", "perdure"} {
		open.Password = password
		_, err := pgx.ConnectConfig(t.Context(), open)
		var refused *pgconn.PgError
		if password == "" && err == nil || password != "" && !errors.As(err, &refused) {
			t.Errorf("password %q: %v", password, err)
		}
	}
	info, err := os.Stat(filepath.Join(filepath.Dir(p.Dir()), "password"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v, %v", info, err)
	}
	for setting, want := range map[string]string{
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "on",
		"password_encryption": "scram-sha-256", "server_encoding": "UTF8", "lc_messages": "C",
	} {
		if got := query(t, p.URL(), "show "+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
}

func TestPostgresTakesSettings(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{Settings: map[string]string{"max_prepared_transactions": "7"}})
	if got := query(t, p.URL(), "show max_prepared_transactions"); got != "7" {
		t.Errorf("setting is %s", got)
	}
	dir := filepath.Dir(p.Dir())
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("temporary directory %s: %v", dir, err)
	}
}

func TestPostgresSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	p := startPostgres(t, PostgresConfig{Dir: openDir(t)})
	taken := p.port
	for name, tc := range map[string]struct {
		cfg  PostgresConfig
		want string
	}{
		"taken port":    {PostgresConfig{Dir: openDir(t), Port: taken}, "could not bind"},
		"bad setting":   {PostgresConfig{Settings: map[string]string{"fsinc": "on"}}, "fsinc"},
		"other version": {PostgresConfig{Dir: filepath.Dir(p.Dir()), Version: "16"}, "pg_upgrade"},
		"unheard of":    {PostgresConfig{Version: "7"}, "PERDURE_POSTGRES_URL"},
		"not a folder":  {PostgresConfig{Dir: p.home.log}, "directory"},
		"ended by ctx":  {PostgresConfig{}, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "ended by ctx" {
				cancel()
			}
			got, err := StartPostgres(ctx, tc.cfg)
			if err == nil {
				got.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error does not say %q: %v", tc.want, err)
			}
		})
	}
	if query(t, p.URL(), "select 'well'") != "well" {
		t.Error("the neighbour was harmed")
	}
}

func TestPostgresWithoutItsPasswordIsNotOverwritten(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	p := startPostgres(t, PostgresConfig{Dir: dir})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "password")); err != nil {
		t.Fatal(err)
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "put it back") {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION")); err != nil {
		t.Fatal(err)
	}
}

// A kill in the middle of initdb leaves a folder that is begun anew.
func TestPostgresBeginsAnUnfinishedClusterAnew(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data.part", "data", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	keep(t, startPostgres(t, PostgresConfig{Dir: dir}).URL())
}

// /root is closed to others: the cluster goes elsewhere, and is found again.
func TestPostgresOfRootInAClosedDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs Postgres as somebody else")
	}
	dir := openDir(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := PostgresConfig{Dir: filepath.Join(dir, "postgres")}
	p := startPostgres(t, cfg)
	t.Cleanup(func() {
		if err := os.RemoveAll(filepath.Dir(p.Dir())); err != nil {
			t.Error(err)
		}
	})
	if strings.HasPrefix(p.Dir(), dir) {
		t.Fatalf("the data are in %s", p.Dir())
	}
	keep(t, p.URL())
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, startPostgres(t, cfg).URL())
}

// What depends on who runs it, again as an ordinary user.
func TestAsAnUnprivilegedUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this run is by an unprivileged user already")
	}
	owner, err := unprivilegedUser()
	if err != nil {
		t.Fatal(err)
	}
	home := openDir(t)
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(home, "embedded.test")
	copyFile(t, os.Args[0], binary)
	if err := owner.give(home); err != nil {
		t.Fatal(err)
	}
	const run = "^Test(PostgresSurvives|PostgresStops|PostgresIgnores|PostgresIsClosed|SecondLock|ClusterOf)"
	cmd := exec.CommandContext(t.Context(), binary, "-test.run", run, "-test.short", "-test.v", "-test.timeout=3m")
	cmd.Dir = home
	cmd.Env = append(serverEnv(home), "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner.credential()}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPostgresSurvivesAStop") {
		t.Fatalf("as user %s: %v\n%s", owner.name, err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestParseVersion(t *testing.T) {
	for line, want := range map[string]string{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": "15.18",
		"postgres (PostgreSQL) 18.3\n":                           "18.3",
		"postgres (PostgreSQL) 19beta1\n":                        "19beta1",
	} {
		version, major, err := parseVersion(line)
		if err != nil || version != want || major != mustAtoi(t, want[:2]) {
			t.Errorf("%q: %s %d %v", line, version, major, err)
		}
	}
	for _, line := range []string{"", "psql 15", "postgres (PostgreSQL) ", "postgres (PostgreSQL) devel"} {
		if _, _, err := parseVersion(line); err == nil {
			t.Errorf("%q is taken for a version", line)
		}
	}
}

func mustAtoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

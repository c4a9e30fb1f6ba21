package main

// The tables' generators, run on the real servers with very little to do: that
// they work, not what they measure.

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// measured runs a command whose table goes into a file, and returns that file.
// Without real servers it is skipped, unless they are required, and with -short.
func measured(t *testing.T, name string, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs servers: not with -short")
	}
	for ours, theirs := range map[string]string{"PERDURE_POSTGRES_URL": "PERDURE_TEST_POSTGRES", "PERDURE_REDIS_ADDRS": "PERDURE_TEST_REDIS", "PERDURE_KAFKA_BROKERS": "PERDURE_TEST_KAFKA"} {
		addr := os.Getenv(theirs)
		if addr == "" {
			if os.Getenv("PERDURE_TEST_REQUIRE_REAL") == "1" {
				t.Fatalf("%s is not set, and PERDURE_TEST_REQUIRE_REAL=1", theirs)
			}
			t.Skipf("%s is not set", theirs)
		}
		t.Setenv(ours, addr)
	}
	doc := filepath.Join(t.TempDir(), "doc.md")
	begin, end := markers(name)
	if err := os.WriteFile(doc, []byte(begin+end+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	call := []string{name}
	if part, ok := strings.CutPrefix(name, "letters-"); ok {
		call = []string{"letters", "-part", part}
	}
	if name == "held-over" {
		call = []string{"held"}
	}
	if err := command(t.Context(), append(append(call, "-runs", "1", "-doc", doc), args...)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wants checks that the table has rows that begin so, with a figure behind.
func wants(t *testing.T, table string, rows ...string) {
	t.Helper()
	for _, row := range rows {
		_, rest, found := strings.Cut(table, "\n| "+row+" | ")
		if !found || strings.HasPrefix(rest, "0 ") || rest[0] < '0' || rest[0] > '9' {
			t.Errorf("the table has no figure for %q:\n%s", row, table)
		}
	}
}

func TestEnqueueTable(t *testing.T) {
	table := measured(t, "enqueue", "-tasks", "6", "-statements", "1,3")
	wants(t, table, "nothing", "INSERT of bytes", "enqueue_bytes", "INSERT of jsonb", "enqueue")
	for _, shape := range []string{"| 1 in a transaction |", "| 3 in a transaction |"} {
		if !strings.Contains(table, shape) {
			t.Errorf("the table lacks %q:\n%s", shape, table)
		}
	}
}

func TestInsertTable(t *testing.T) {
	table := measured(t, "insert", "-tasks", "20", "-batch", "10", "-warmup", "1", "-producers", "1")
	for _, row := range []string{"perdure", "river", "COPY into a bare table", "perdure, times river"} {
		if !strings.Contains(table, "\n| "+row+" | ") {
			t.Errorf("the table has no row %q:\n%s", row, table)
		}
	}
}

func TestHTTPTable(t *testing.T) {
	table := measured(t, "http", "-connections", "4", "-lines", "3", "-duration", "50ms")
	wants(t, table, "dispatcher", "a transaction a post, the same pool", "a transaction a post, 32 connections", "dispatcher, NDJSON of 3")
}

func TestRelayTable(t *testing.T) {
	table := measured(t, "relay", "-backlog", "200", "-idle", "100ms", "-rate", "100", "-steady", "200ms")
	wants(t, table, "backlog: rows/s", "peak of the process, MiB", "p99")
}

func TestHeldTable(t *testing.T) {
	table := measured(t, "held", "-tasks", "40", "-batch", "10", "-warmup", "5", "-producers", "1", "-concurrency", "4")
	wants(t, table, heldOrder...)
}

// asCommand makes the test's binary the command that the sides of held -over are.
const asCommand = "PERDURE_PEERS_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	m.Run()
}

func TestHeldOverTable(t *testing.T) {
	t.Setenv(asCommand, "1")
	table := measured(t, "held-over", "-over", "4s", "-settle", "1ms", "-tasks", "400", "-batch", "10", "-warmup", "5", "-concurrency", "4")
	for _, system := range heldOrder {
		for _, snapshot := range []string{"none", "held"} {
			wants(t, table, system+" | "+snapshot)
		}
	}
}

func TestLettersTables(t *testing.T) {
	const database = "perdure_letters_test"
	t.Cleanup(func() {
		url := os.Getenv("PERDURE_TEST_POSTGRES")
		if url == "" {
			return
		}
		conn, err := pgx.Connect(context.Background(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background()) //nolint:errcheck // nothing is under way
		if _, err := conn.Exec(context.Background(), `drop database if exists `+database+` with (force)`); err != nil {
			t.Error(err)
		}
	})
	table := measured(t, "letters-pages", "-database", database, "-letters", "3000")
	wants(t, table, "all", "group, the largest", "key, the largest", "state open", "error text of many groups")
	table = measured(t, "letters-replay", "-database", database, "-letters", "3000", "-plan", "50")
	wants(t, table, "a plan: until its letters are frozen, s", "a replay: letters/s")
}

// TestADatabaseThatCannotBeMadeIsTakenBack, and the mistake is told.
func TestADatabaseThatCannotBeMadeIsTakenBack(t *testing.T) {
	url := os.Getenv("PERDURE_TEST_POSTGRES")
	if url == "" {
		t.Skip("PERDURE_TEST_POSTGRES is not set")
	}
	srv := servers{postgres: url}
	if _, _, err := srv.migrated(t.Context(), "perdure_bad", "not SQL"); err == nil || !strings.Contains(err.Error(), "42601") {
		t.Fatalf("got %v", err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // only read from
	var left int
	if err := conn.QueryRow(t.Context(), `select count(*) from pg_database where datname like 'perdure\_bad\_%'`).Scan(&left); err != nil || left != 0 {
		t.Fatalf("%d databases are left, %v", left, err)
	}
}

package main

// outbox reset, release and discard as a person at a terminal has them, on a
// database that was made anew under its source.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
)

func TestOutboxReset(t *testing.T) {
	cleanEnv(t)
	writeCatalog(t, small)
	k := testkit.Kafka(t)
	t.Setenv("PERDURE_KAFKA_BROKERS", strings.Join(k.Brokers, ","))
	t.Setenv("PERDURE_KAFKA_TOPIC_PREFIX", k.Prefix)
	enqueue := func(url string, n int) {
		t.Helper()
		t.Setenv("PERDURE_POSTGRES_URL", url)
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		for i := range n {
			if _, err := conn.Exec(t.Context(), `insert into perdure.outbox (kind, queue, payload) values ('mail.send', 'mail', $1)`, fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	status := func() (v struct {
		Alive   bool
		Backlog int
		Parked  map[string]int
		Held    int
		Tasks   []struct{ ID string } `json:"held_tasks"`
	}) {
		t.Helper()
		code, out, errOut := call(t, "outbox", "status", "-o", "json")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, errOut)
		}
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	// relayed runs `perdure relay` until nothing waits, and returns its exit code.
	relayed := func() int {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan int, 1)
		go func() { done <- run(ctx, []string{"relay"}, io.Discard, io.Discard) }()
		deadline := time.Now().Add(30 * time.Second)
		for {
			select {
			case code := <-done:
				return code
			case <-time.After(50 * time.Millisecond):
			}
			if s := status(); s.Alive && s.Backlog == 0 && len(s.Parked) == 0 || time.Now().After(deadline) {
				cancel()
				return <-done
			}
		}
	}
	enqueue(testkit.MigratedPostgres(t).URL, 3)
	if code := relayed(); code != 0 {
		t.Fatalf("the relay exits %d", code)
	}
	enqueue(testkit.MigratedPostgres(t).URL, 5)
	if code := relayed(); code != 1 {
		t.Fatalf("the relay of a database made anew exits %d, want 1", code)
	}

	for _, c := range []struct {
		args string
		code int
		says []string
	}{
		{"outbox reset", 3, []string{"--dry-run", "--yes"}},
		{"outbox reset --upgraded --yes", 3, []string{"pg_upgrade"}},
		{"outbox reset --dry-run", 0, []string{"dry run", "held        3 tasks of queue mail", "2 tasks that Kafka cannot have", "1 → 2"}},
		{"outbox reset --dry-run -o json", 0, []string{"held"}},
		{"outbox reset --yes", 0, []string{"perdure outbox status"}},
		{"outbox reset --yes", 3, []string{"nothing to mend"}},
		{"outbox status", 0, []string{"3 tasks that Kafka may have", "main-1-2"}},
		{"outbox release 1", 2, []string{"--same-id or --new-id"}},
		{"outbox release 1 --new-id", 3, []string{"--yes"}},
		{"outbox release 1 --new-id --yes", 0, []string{"released 1 as "}},
		{"outbox release 2 --same-id --yes -o json", 0, []string{`"released"`}},
		{"outbox discard x --yes", 2, []string{"no seq"}},
		{"outbox discard 3", 3, []string{"--yes"}},
		{"outbox discard 3 --why twice --yes -o json", 0, []string{`"discarded"`}},
		{"outbox discard 3 --yes", 1, []string{"no such task is held"}},
	} {
		code, out, errOut := call(t, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("%s: exit %d, want %d: %s%s", c.args, code, c.code, out, errOut)
		}
		if strings.HasSuffix(c.args, "-o json") && !json.Valid([]byte(out)) {
			t.Errorf("%s: %s", c.args, out)
		}
		for _, say := range c.says {
			if !strings.Contains(out+errOut, say) {
				t.Errorf("%s does not say %q: %s%s", c.args, say, out, errOut)
			}
		}
	}
	if code := relayed(); code != 0 {
		t.Fatalf("the relay exits %d after the reset", code)
	}
	if s := status(); s.Held != 0 || s.Backlog != 0 || len(s.Tasks) != 0 {
		t.Errorf("left are %+v", s)
	}
}

package main

// perdure why as a person at a terminal has it: each role is started, stopped
// and kept from its work, and the answer must name what was done.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/testkit"
)

const whyCatalog = `version: 1
queues:
  mail: {partitions: 1}
kinds:
  mail.send:
    queue: mail
    timeout: 1m
    retry: {max_attempts: 3, initial_delay: 1h, max_delay: 1h}
    executor: {http: {url: "ENDPOINT"}}
`

// whyWorld is a system whose roles run one by one.
type whyWorld struct {
	t   *testing.T
	cfg config.Config
	db  *pgx.Conn
}

// start runs a role until stop is called, or the test ends.
func (s *whyWorld) start(name string, role func(context.Context, app.Env) error, addr string) (stop func()) {
	s.t.Helper()
	cfg := s.cfg
	cfg.HTTPAddr = addr
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- role(ctx, app.Env{Config: cfg, Out: io.Discard, ErrOut: os.Stderr}) }()
	over := false
	stop = func() {
		if over {
			return
		}
		over = true
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// enqueue is what a producer does in its own transaction.
func (s *whyWorld) enqueue(db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, what string, runAt *time.Time) string {
	s.t.Helper()
	var seq int64
	if err := db.QueryRow(s.t.Context(), `select perdure.enqueue(kind => 'mail.send', payload => jsonb_build_object('do', $1::text), run_at => $2)`, what, runAt).Scan(&seq); err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("main-1-%d", seq)
}

// why asks until the cause is the one that is wanted, and holds the text of the
// terminal and the JSON of a program against it.
func (s *whyWorld) why(id, state, cause, command string, words ...string) {
	s.t.Helper()
	var v struct {
		TaskID  string `json:"task_id"`
		State   string `json:"state"`
		Why     string `json:"why"`
		Command string `json:"command"`
		Cause   string `json:"cause"`
	}
	code := 0
	testkit.Eventually(s.t, 30*time.Second, func() (bool, string) {
		var out, errOut string
		code, out, errOut = call(s.t, "why", id, "-o", "json")
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			return false, out + errOut
		}
		return v.Cause == cause && v.Command == command && v.State == state, out
	})
	if v.TaskID != id || v.State != state {
		s.t.Errorf("%s is %q, want %s", v.TaskID, v.State, state)
	}
	want := 0
	if state == "unknown" {
		want = 1
	}
	textCode, out, errOut := call(s.t, "why", id)
	if code != want || textCode != want {
		s.t.Errorf("exit %d as JSON and %d as text, want %d", code, textCode, want)
	}
	s.t.Logf("%s%s", out, errOut)
	text := out + errOut
	if want == 0 && (strings.Count(out, "\n") != 2 || errOut != "" || !strings.HasPrefix(out, id+" ")) {
		s.t.Errorf("not a sentence and a command: %q %q", out, errOut)
	}
	for _, w := range append(words, "next: "+command) {
		if !strings.Contains(text, w) {
			s.t.Errorf("%q is missing in %s", w, text)
		}
	}
	if strings.Contains(text, "\x1b") || strings.Contains(text, `"do"`) {
		s.t.Errorf("an escape or the payload reaches the terminal: %q", text)
	}
}

func TestWhySaysWhatHoldsATask(t *testing.T) {
	cleanEnv(t)
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(body), "block"):
			<-release
		case strings.Contains(string(body), "fail"):
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"type":"urn:mail:busy","detail":"no \u001b[31m today"}`)
		case strings.Contains(string(body), "die"):
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, "no such address")
		case strings.Contains(string(body), "lost"):
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	s := whyServers(t, strings.Replace(whyCatalog, "ENDPOINT", srv.URL, 1))

	s.start("dispatcher", app.Dispatcher, strings.TrimPrefix(s.cfg.APIURL, "http://"))
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		code, _, errOut := call(t, "why", "main-1-999")
		return code == 1 && strings.Contains(errOut, "404"), errOut
	})
	s.why("main-1-999", "unknown", "no_such_task", "perdure outbox status", "the highest that main has given out is main-1-0")
	s.why("shop-1-1", "unknown", "other_source", "PERDURE_API_URL=http://DISPATCHER-OF-SHOP perdure why shop-1-1", "of source shop")
	if code, _, errOut := call(t, "why", ""); code != 2 || !strings.Contains(errOut, "is empty") {
		t.Errorf("exit %d: %s", code, errOut)
	}

	// Nothing relays; one transaction is open.
	blocked := s.enqueue(s.db, "block", nil)
	s.why(blocked, "queued", "no_relay", "perdure relay", "no relay has ever run here")
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := s.enqueue(tx, "fail", nil)
	s.why(open, "unknown", "not_committed", "perdure outbox status", fmt.Sprintf("pid %d (billing) holds a transaction open since", s.db.PgConn().PID()))
	// The dispatcher's own short transactions may be older for a moment.
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		_, out, _ := call(t, "outbox", "status")
		return strings.Contains(out, fmt.Sprintf("the oldest of pid %d (billing) for ", s.db.PgConn().PID())) && strings.Contains(out, "idle in transaction; it has written to the outbox"), out
	})
	says(t, "outbox status", "nobody has relayed yet", "partitions    17, ")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.why(open, "unknown", "rolled_back", "perdure outbox status", "rolled back")
	due := time.Now().Add(time.Hour)
	scheduled := s.enqueue(s.db, "later", &due)
	s.why(scheduled, "scheduled", "scheduled", "perdure relay", "it is scheduled for ", due.UTC().Format("15:04"), "no relay runs now") // with its date, if that is tomorrow

	// A relay, and no worker.
	stop := s.start("relay", app.Relay, "127.0.0.1:0")
	s.why(blocked, "queued", "no_worker", "perdure worker", "tasks.mail, partition 0, offset 0", "no worker runs queue mail")
	s.why(scheduled, "scheduled", "scheduled", "perdure tasks get "+scheduled, "scheduled for")
	stop()
	failing := s.enqueue(s.db, "fail", nil)
	s.why(failing, "queued", "no_relay", "perdure relay", "no relay runs: the lease of the last, ", "ago); no other waits")
	if _, err := s.db.Exec(t.Context(), `update perdure.relay_cursor set timeline = '0000002A'`); err != nil {
		t.Fatal(err)
	}
	s.why(failing, "queued", "relay_halted", "perdure outbox reset --dry-run", "would halt: (timeline): the cursor is of timeline 0000002A")
	says(t, "outbox status", "would halt    relay halted (timeline)")
	if _, err := s.db.Exec(t.Context(), `update perdure.relay_cursor set timeline = left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)`); err != nil {
		t.Fatal(err)
	}

	// All of it.
	s.start("relay", app.Relay, "127.0.0.1:0")
	s.start("replayer", app.Replayer, "127.0.0.1:0")
	s.start("worker", app.Worker, "127.0.0.1:0")
	s.why(blocked, "running", "running", "perdure tasks get "+blocked+" --wait 30s", "attempt 1 of 3", "an attempt is ended after 1m0s")
	s.why(failing, "retrying", "retry", "perdure tasks get "+failing, "waits for attempt 2 of 3 due at ", `urn:mail:busy: no \x1b[31m today`)
	dying := s.enqueue(s.db, "die", nil)
	s.why(dying, "dead", "dead", "perdure dlq show "+dying+"@0", "permanent", "no such address")
	says(t, "dlq show "+dying+"@0", dying)
	s.enqueue(s.db, "die", nil)
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		_, out, _ := call(t, "why", dying)
		return strings.Contains(out, "next: perdure replay plan --group fp2:") && strings.Contains(out, "2 letters of group"), out
	})
	close(release)
	s.why(blocked, "completed", "completed", "perdure tasks get "+blocked, "it was relayed at ")
	says(t, "tasks cancel "+scheduled, "cancelled")
	s.why(scheduled, "cancelled", "cancelled", "perdure tasks get "+scheduled, "will not run")

	// An endpoint that is not there: it opens the breaker of the whole kind.
	lost := s.enqueue(s.db, "lost", nil)
	s.why(lost, "waiting", "breaker", "perdure catalog explain mail.send", "waits: "+strings.TrimPrefix(srv.URL, "http://")+"'s breaker is open, a call failed at ", "HTTP 404", "probe ")
	behind := s.enqueue(s.db, "block", nil)
	s.why(behind, "queued", "breaker", "perdure catalog explain mail.send", "is queued on ", "HTTP 404", "probe ")
}

// whyServers are the test's own servers, migrated, and the environment of a person.
func whyServers(t *testing.T, catalog string) *whyWorld {
	t.Helper()
	writeCatalog(t, catalog)
	db, k, r := testkit.MigratedPostgres(t), testkit.Kafka(t), testkit.Redis(t)
	free := httptest.NewServer(http.NotFoundHandler()) // its port is free again
	url := free.URL
	free.Close()
	for name, value := range map[string]string{
		"PERDURE_POSTGRES_URL": db.URL, "PERDURE_KAFKA_BROKERS": strings.Join(k.Brokers, ","), "PERDURE_KAFKA_TOPIC_PREFIX": k.Prefix,
		"PERDURE_REDIS_ADDRS": r.Addr, "PERDURE_REDIS_KEY_PREFIX": r.Prefix, "PERDURE_API_URL": url, "PERDURE_LOG_LEVEL": "error",
	} {
		t.Setenv(name, value)
	}
	cfg, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	pgCfg, err := pgx.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	pgCfg.RuntimeParams["application_name"] = "billing"
	conn, err := pgx.ConnectConfig(t.Context(), pgCfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // the database goes
	return &whyWorld{t, cfg, conn}
}

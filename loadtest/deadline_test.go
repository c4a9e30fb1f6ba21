package loadtest

// Wherever a task waits when its deadline passes, it does not run any more, and says
// so by a letter. Checks I1.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
)

// late is an endpoint that lets some tasks fail, counts who was called for which, and
// keeps who was called after the deadline.
type late struct {
	mu    sync.Mutex
	calls map[string]int
	after []string
}

func (l *late) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	var task struct{ Case string }
	body, err := io.ReadAll(r.Body)
	err = errors.Join(err, json.Unmarshal(body, &task))
	deadline, derr := time.Parse(time.RFC3339, r.Header.Get("Perdure-Deadline"))
	if err = errors.Join(err, derr); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls[task.Case]++
	if now.After(deadline.Add(100 * time.Millisecond)) { // on its way since before
		l.after = append(l.after, fmt.Sprintf("%s, %v after its deadline", task.Case, now.Sub(deadline)))
	}
	switch task.Case {
	case "delayed": // for as long as the shortest delay topic takes it
		w.Header().Set("Retry-After", "5")
		fallthrough
	case "retried":
		w.WriteHeader(http.StatusServiceUnavailable)
	case "replayed":
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
}

func (l *late) called() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.calls)
}

func TestADeadlineHoldsWhereverATaskWaits(t *testing.T) {
	t.Parallel()
	l := &late{calls: map[string]int{}}
	f := newFleet(t, &Ledger{}, patient)
	server := &http.Server{Handler: l, ReadHeaderTimeout: time.Minute}
	ln := listen(t)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	f.write("catalog.yaml", fmt.Sprintf(`version: 1
queues: {due: {partitions: 2}}
kinds:
  quick: {queue: due, retry: {max_attempts: 1000, initial_delay: 50ms, max_delay: 50ms}, executor: {http: {url: "http://%[1]s/run"}}}
`, ln.Addr()))
	for _, name := range []string{"dispatcher", "worker", "replayer"} {
		f.start(name, "1")
	}
	relay := f.start("relay", "1")
	db := connect(t, f.DB)
	enqueue := func(name, more string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), `select perdure.enqueue(kind => 'quick', payload => jsonb_build_object('case', $1::text), `+more+`)`, name); err != nil {
			t.Fatal(err)
		}
	}
	is := func(what, sql string) {
		t.Helper()
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			var yes bool
			err := db.QueryRow(t.Context(), sql).Scan(&yes)
			return err == nil && yes, fmt.Sprintf("%s: %v; called %v", what, err, l.called())
		})
	}

	enqueue("runs", `deadline => now() + interval '1 hour'`)
	enqueue("retried", `deadline => now() + interval '1 s'`)
	enqueue("replayed", `deadline => now() + interval '12 s'`)
	is("two letters", `select count(*) = 2 from perdure.dead_letters`)
	enqueue("delayed", `deadline => now() + interval '7 s'`)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return len(records(t, f.Kafka.Brokers, f.Kafka.Prefix+"retry.5s")) == 1, "nothing is in the delay topic"
	})
	enqueue("scheduled", `run_at => now() + interval '1 s', deadline => now() + interval '2 s'`)
	is("a task is filed", `select count(*) = 1 from perdure.scheduled`)
	relay.kill()
	enqueue("unrelayed", `deadline => now() + interval '1 s'`)
	if _, err := db.Exec(t.Context(), `insert into perdure.parked (id, why, generation, epoch, created_at, deadline, kind, queue, content_type, payload, checked)
	  values (nextval('perdure.outbox_id_seq'), 'the topic was away', 1, 0, now(), now() + interval '1 s', 'quick', 'due', 'application/json', '{"case":"parked"}', true)`); err != nil {
		t.Fatal(err)
	}
	var letter string
	if err := db.QueryRow(t.Context(), `select task_id from perdure.dead_letters where reason = 'permanent'`).Scan(&letter); err != nil {
		t.Fatal(err)
	}
	replay := f.command("replay", "start", "--id", letter, "--canary", "0", "--yes")
	if err := replay.Start(); err != nil {
		t.Fatal(err)
	}
	is("the replay is in the outbox", `select count(*) = 1 from perdure.outbox where epoch = 1`)
	is("every deadline but one has passed", `select max(deadline) < now() from perdure.outbox where deadline < now() + interval '20 min'`)
	f.start("relay", "2")

	is("six letters of tasks that expired", `select count(*) = 6 from perdure.dead_letters where reason = 'expired' and state = 'open'`)
	_ = replay.Wait() // 1, since it died again
	rows, err := db.Query(t.Context(), `select convert_from(payload, 'UTF8')::jsonb ->> 'case' || ' ' || epoch from perdure.dead_letters where state = 'open' order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	cases, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(cases, ", "), "delayed 0, parked 0, replayed 1, retried 0, scheduled 0, unrelayed 0"; got != want {
		t.Errorf("letters of %s; want %s", got, want)
	}
	calls := l.called()
	if calls["retried"] < 2 {
		t.Errorf("called %v: the retried one was to be tried again and again", calls)
	}
	delete(calls, "retried")
	if want := map[string]int{"runs": 1, "delayed": 1, "replayed": 1}; !maps.Equal(calls, want) {
		t.Errorf("called %v, want %v", calls, want)
	}
	if len(l.after) > 0 {
		t.Errorf("called too late: %s", strings.Join(l.after, "; "))
	}
	out, err := f.command("replay", "start", "--id", letter, "--yes").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(string(out), "deadline has passed") {
		t.Errorf("a replay behind the deadline: %v, want exit 3\n%s", err, out)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/app"
	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/testkit"
)

// startNode runs `up` on the test's servers, and leaves the environment of a
// person who is about to type commands: perdure.env is found by PERDURE_DATA_DIR.
func startNode(t *testing.T, endpoint string) {
	t.Helper()
	startNodeOf(t, endpoint, small)
}

// startNodeOf is startNode with a catalog whose kinds are run by endpoint.
func startNodeOf(t *testing.T, endpoint, text string) {
	t.Helper()
	dir := cleanEnv(t)
	catalog := writeCatalog(t, strings.Replace(text, "http://127.0.0.1:9/send", endpoint, 1))
	db, k, r := testkit.Postgres(t), testkit.Kafka(t), testkit.Redis(t)
	cfg, err := config.LoadEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Catalog, cfg.PostgresURL, cfg.KafkaBrokers, cfg.KafkaTopicPrefix = catalog, db.URL, k.Brokers, k.Prefix
	cfg.RedisAddrs, cfg.RedisKeyPrefix, cfg.HTTPAddr, cfg.LogLevel = []string{r.Addr}, r.Prefix, "127.0.0.1:0", "error"
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- app.Up(ctx, app.Env{Config: cfg, JQ: []string{os.Args[0], "fix-jq"}, Out: io.Discard, ErrOut: os.Stderr})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("PERDURE_CATALOG", "")
	if err := os.Unsetenv("PERDURE_CATALOG"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("up ended: %v", err)
		default:
		}
		if _, err := os.Stat(config.EnvFile(dir)); err != nil {
			return false, err.Error()
		}
		code, _, errOut := call(t, "tasks", "get", "main-1-999")
		if code != 1 || !strings.Contains(errOut, "no task has this id") {
			return false, errOut
		}
		return ready(t) // it answers before it accepts
	})
}

// ready asks whether every role of the node is.
func ready(t *testing.T) (bool, string) {
	t.Helper()
	cfg, err := config.Load()
	if err != nil {
		return false, err.Error()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cfg.APIURL+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return err == nil && res.StatusCode == http.StatusOK, string(body)
}

// says runs a command that must succeed and whose output must hold every word.
func says(t *testing.T, args string, words ...string) string {
	t.Helper()
	code, out, errOut := call(t, strings.Fields(args)...)
	if code != 0 {
		t.Fatalf("%s: exit %d: %s", args, code, errOut)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%s: %q is missing in\n%s", args, w, out)
		}
	}
	return out
}

// decideByHand says what people say of a group with one open letter, and leaves it
// open.
func decideByHand(t *testing.T, group, id string) {
	t.Helper()
	says(t, "dlq ack "+group+" --owner ann", "acknowledged (ann)")
	says(t, "dlq note "+group+" sevens --runbook https://wiki.example/seven", "sevens", "https://wiki.example/seven", "acknowledged (ann)")
	says(t, "dlq mute "+group+" --for 1h --why later", "muted (ann) until")
	says(t, "dlq groups", "no dead letters")
	says(t, "dlq groups --care muted", group)
	says(t, "dlq resolve "+group, "resolved (ann)")
	says(t, "dlq reopen "+group, "open (ann)")
	says(t, "dlq groups", group, "open (ann)")
	for args, want := range map[string]int{"discard " + id + " --why test": 3, "hold --kind nope --why test --yes": 1, "hold --kind nope --why test": 1, "release " + id + " --why test": 1} {
		if code, out, errOut := call(t, strings.Fields("dlq "+args)...); code != want || out != "" {
			t.Errorf("dlq %s: exit %d, want %d: %s%s", args, code, want, out, errOut)
		}
	}
	says(t, "dlq hold --group "+group+" --why look --yes", "1 letter held")
	if code, _, errOut := call(t, strings.Fields("replay start --yes --group "+group)...); code != 1 || !strings.Contains(errOut, "no open letter") {
		t.Errorf("a replay of a held letter: exit %d, %s", code, errOut)
	}
	says(t, "dlq release "+id+" --why seen --yes -o json", `"letters": 1`)
	says(t, "dlq ls --state open", id)
	says(t, "audit ls", "letter.hold", "letter.release", "group.mute", "group.note")
}

// exportTest writes a letter as a Go test, once.
func exportTest(t *testing.T, id string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mail.go"), []byte("package mail\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := "dlq export " + id + " --as go-test --catalog ../catalog.yaml --dir " + dir
	says(t, args, "wrote "+dir+"/letter_", "_test.go")
	if code, _, errOut := call(t, strings.Fields(args)...); code != 1 || !strings.Contains(errOut, "there already") {
		t.Errorf("a second time: exit %d, %s", code, errOut)
	}
	files, err := filepath.Glob(filepath.Join(dir, "letter_*_test.go"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	for _, want := range []string{"package mail\n", "`{\"n\":7}`", `workertest.New(t, "../catalog.yaml", setup).Run(t, "mail.send", payload`, `workertest.ID("` + id + `")`, "workertest.Attempt(1)", "no sevens"} {
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s is missing, %v:\n%s", want, err, text)
		}
	}
}

// TestCommandsOnARunningSystem walks the way of a person: enqueue a file, look
// at tasks and letters, mend the cause, replay, balance.
func TestCommandsOnARunningSystem(t *testing.T) {
	var mended atomic.Bool
	var headers sync.Map // of the last request for seven
	var repaired atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p struct{ N int }
		if err := json.NewDecoder(r.Body).Decode(&p); err == nil && p.N == 70 {
			repaired.Store(r.Header.Get("Idempotency-Key") + " " + r.Header.Get("Webhook-Id"))
		} else if err != nil || p.N == 7 && !mended.Load() {
			for _, name := range []string{"Perdure-Attempt", "Perdure-Fence", "Idempotency-Key"} {
				headers.Store(name, r.Header.Get(name))
			}
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"type":"urn:seven","detail":"no sevens \u001b[31m today"}`)
		}
	}))
	defer srv.Close()
	startNode(t, srv.URL)

	file := filepath.Join(t.TempDir(), "tasks.ndjson")
	var lines strings.Builder
	for n := 1; n <= 20; n++ {
		fmt.Fprintf(&lines, `{"kind":"mail.send","payload":{"n":%d}}`+"\n", n)
	}
	lines.WriteString("not json\n" + `{"kind":"nope","payload":1}` + "\n")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := call(t, "enqueue", "-f", file)
	if code != 1 || !strings.Contains(out, "20 accepted, 2 rejected") || !strings.Contains(errOut, "2 lines were rejected") {
		t.Fatalf("enqueue: exit %d\n%s%s", code, out, errOut)
	}
	rejects, err := os.ReadFile(file + ".rejects.ndjson")
	if err != nil || strings.Count(string(rejects), "\n") != 2 || !strings.Contains(string(rejects), `"line":21`) {
		t.Errorf("rejects: %v\n%s", err, rejects)
	}
	if !strings.Contains(string(rejects), `"input":"not json"`) {
		t.Errorf("the rejects do not hold the lines: %s", rejects)
	}
	if code, _, errOut := call(t, "enqueue", "-f", file, "--rejects", filepath.Join(t.TempDir(), "none", "r")); code != 1 || !strings.Contains(errOut, "--rejects") {
		t.Errorf("rejects that cannot be written: exit %d, %s", code, errOut)
	}
	if _, out, _ := call(t, "enqueue", "-f", file); !strings.Contains(out, "20 accepted before") {
		t.Errorf("the same file again: %s", out)
	}

	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		_, out, errOut := call(t, "balance")
		return strings.Contains(out, "accepted=20 completed=19 waiting=0 dead=1"), out + errOut
	})
	testkit.Eventually(t, 30*time.Second, func() (bool, string) { // the index follows the topic
		_, out, errOut := call(t, "dlq", "ls")
		return strings.Contains(out, "mail.send"), out + errOut
	})
	says(t, "dlq ls", "mail.send", "permanent", `no sevens \x1b[31m today`)
	var groups []struct{ Group string }
	if err := json.Unmarshal([]byte(says(t, "dlq groups -o json")), &groups); err != nil || len(groups) != 1 {
		t.Fatalf("groups: %v, %v", groups, err)
	}
	says(t, "dlq groups "+groups[0].Group, "1 open", "perdure replay start --group "+groups[0].Group)
	var letters []struct {
		TaskID string `json:"task_id"`
	}
	if err := json.Unmarshal([]byte(says(t, "dlq ls -o json")), &letters); err != nil || len(letters) != 1 {
		t.Fatalf("letters: %v, %v", letters, err)
	}
	id := letters[0].TaskID
	if out := says(t, "dlq show "+id, `"n": 7`, "urn:seven", "1 letter, 1 open", "tried", "perdure replay plan --group "+groups[0].Group); strings.Contains(out, "\x1b") {
		t.Errorf("an escape reaches the terminal: %q", out)
	}
	says(t, "tasks get "+id, "dead", "accepted", "relayed", "perdure dlq show")
	if out := says(t, "dlq export --state open", `"payload":{"n":7}`, `"attempts":[{`, `"headers":[[`); strings.Count(out, "\n") != 1 {
		t.Errorf("exported, one letter a line: %s", out)
	}
	if out := says(t, "dlq export --kind nope"); out != "" {
		t.Errorf("exported of none: %s", out)
	}
	exportTest(t, id)
	says(t, "dlq reindex -o json", `"letters": 1`, `"restored": 0`)
	says(t, "dlq recount")
	decideByHand(t, groups[0].Group, id)
	died := maps.Collect(headers.Range)
	headers.Clear()
	code, out, _ = call(t, "dlq", "try", id, "--url", srv.URL)
	if code != 1 || !strings.Contains(out, "permanent in ") || !strings.Contains(out, groups[0].Group+", the cause that the letter died of") {
		t.Errorf("a trial of what is not mended: exit %d, %s", code, out)
	}
	if again := maps.Collect(headers.Range); len(died) != 3 || !maps.Equal(again, died) {
		t.Errorf("the trial was posted as %v, the task had been as %v", again, died)
	}

	planRepairs(t, groups[0].Group, id)

	mended.Store(true)
	says(t, "dlq try "+id+" -o json --url "+srv.URL, `"outcome": "completed"`)
	says(t, "dlq ls --state open", id) // as it was
	says(t, "replay start --group "+groups[0].Group+" --dry-run", "would replay  1")
	var replay struct{ ID string }
	if err := json.Unmarshal([]byte(says(t, "replay start --yes --why mended -o json --group "+groups[0].Group)), &replay); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 30*time.Second, func() (bool, string) {
		_, out, errOut := call(t, "balance")
		return strings.Contains(out, "accepted=20 completed=20 waiting=0 dead=0 discarded=0 cancelled=0 replayed=1 lost=0"), out + errOut
	})
	says(t, "replay watch "+replay.ID, "mended", "1 completed") // until the last outcome is counted
	if out := says(t, "replay watch -o jsonl "+replay.ID); !strings.Contains(out, `"completed":1`) {
		t.Errorf("watch -o jsonl: %s", out)
	}
	says(t, "replay report "+replay.ID, "1 died of "+groups[0].Group, "urn:seven", "replay.plan: mended", "letters.replay", "last hash")
	says(t, "replay report -o md "+replay.ID, "# Replay `"+replay.ID+"`: 1 of 1 letter replayed, 0 refused; 1 completed, 0 died again, 0 under way\n",
		"- 1 letter of `"+groups[0].Group+"`", "note: `sevens`", "letters.replay", "last hash `")
	says(t, "replay report -o json "+replay.ID, `"completed": 1`, `"causes": [`, `"hash": "`)
	var plan struct{ ID, State string }
	_, out, _ = call(t, "replay", "plan", "-o", "json", "--id", id) // refused, and still shown
	if err := json.Unmarshal([]byte(out), &plan); err != nil || plan.State != "planned" {
		t.Errorf("replay plan: %v %s", err, out)
	}
	says(t, "replay rate "+plan.ID+" 5", "5/s")
	says(t, "replay cancel "+plan.ID+" --why no", "cancelled", "no")
	says(t, "replay status "+replay.ID, "mended", "1 completed")
	says(t, "replay status", replay.ID)
	says(t, "tasks get "+id+" --wait 5s", "completed", "replayed")
	code, _, errOut = call(t, "tasks", "cancel", id)
	if code != 1 || !strings.Contains(errOut, "409") || !strings.Contains(errOut, "it is completed") {
		t.Errorf("a cancel of a task that is completed: exit %d, %s", code, errOut)
	}
	code, _, errOut = call(t, "replay", "start", replay.ID, "--yes")
	if code != 1 || !strings.Contains(errOut, "409") {
		t.Errorf("a replay that is done: exit %d, %s", code, errOut)
	}
	for args, want := range map[string]int{"--group fp1:00": 1, "--group fp1:00 --dry-run": 1, "--id " + id: 3, "--id main-1-1": 3, "--id nobody": 3} {
		code, out, errOut := call(t, strings.Fields("replay start --yes "+args)...)
		if code != want || !strings.Contains(errOut, "nothing is replayed") || !strings.Contains(out, "refused") {
			t.Errorf("replay start %s: exit %d, want %d: %s%s", args, code, want, out, errOut)
		}
		if args == "--id main-1-1" && !strings.Contains(errOut, "1: completed: ") {
			t.Errorf("a task that completed is refused with %s", errOut)
		}
	}
	mended.Store(false)
	again := repair(t)
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		_, out, errOut := call(t, "balance")
		return strings.Contains(out, "accepted=21 completed=21 waiting=0 dead=0"), out + errOut
	})
	if got, want := repaired.Load(), again+"-r1 "+again+"-r1"; got != want {
		t.Errorf("the repaired task was posted as %v, want %s", got, want)
	}
	if code, _, errOut := call(t, "dlq", "ls", "--state", "bogus"); code != 1 || !strings.Contains(errOut, "#/query/state") {
		t.Errorf("a state that is none: exit %d, %s", code, errOut)
	}
	says(t, "dlq ls --state open", "no dead letters")
	says(t, "dlq groups --kind nope", "no dead letters")
	says(t, "outbox status", "backlog", "0")
	says(t, "queues ls", "mail", "BACKLOG")
	says(t, "topics plan", "the topics are as the catalog asks")
	says(t, "catalog apply", "the database has this catalog already")
	says(t, "migrate status", "00001_init.sql")
	says(t, "migrate up", "source main")
	says(t, "env", "PERDURE_API_URL=http://127.0.0.1:")
	says(t, "config", "perdure.env")
	code, out, _ = call(t, "doctor", "-o", "json")
	var findings []struct{ Level, Part, What string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil || len(findings) < 8 || code != 0 {
		t.Errorf("doctor: exit %d, %v\n%s", code, err, out)
	}
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/perdure/perdure/internal/config"
	"github.com/perdure/perdure/internal/testkit"
)

// elsewhere are commands whose -o json another test reads, and commands that run until
// they are stopped and print no result ("").
var elsewhere = map[string]string{
	"demo":           "takes a minute; its result goes through the printer of all others",
	"dlq import":     "TestTheDocumentedImportRuns",
	"loadtest run":   "TestLoadtestRun",
	"outbox discard": "TestOutboxReset",
	"outbox release": "TestOutboxReset",
	"outbox reset":   "TestOutboxReset",
	"demo-worker":    "",
	"dispatcher":     "",
	"fix-jq":         "",
	"migrate down":   "TestMigrateDownPrintsJSON",
	"relay":          "",
	"replayer":       "",
	"up":             "",
	"worker":         "",
}

// Whatever prints a result prints it as JSON too. A command that is new stands in no
// list here, and fails this until it does.
func TestEveryCommandPrintsJSON(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p struct{ N int }
		_ = json.NewDecoder(r.Body).Decode(&p) // 0: any other cause
		w.Header().Set("Perdure-Fingerprint", fmt.Sprint("cause-", "abc"[p.N%3:p.N%3+1]))
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, "no")
	}))
	defer srv.Close()
	startNodeOf(t, srv.URL, small+"policies:\n  look:\n    when: {kind: mail.send}\n    action: hold\n    dry_run: true\n")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tasks := write("tasks.ndjson", "{\"kind\":\"mail.send\",\"payload\":{\"n\":0}}\n{\"kind\":\"mail.send\",\"payload\":{\"n\":1}}\n{\"kind\":\"mail.send\",\"payload\":{\"n\":2}}\n"+
		"{\"kind\":\"mail.send\",\"payload\":{\"n\":3},\"run_at\":\"2999-01-01T00:00:00Z\"}\n")
	write("mail.go", "package mail\n")

	done := map[string]bool{}
	// runs runs a command with -o json, or jsonl where that is all that it has.
	runs := func(path, args string) (doc any) {
		t.Helper()
		done[path] = true
		lines := path == "dlq export" && !strings.Contains(args, "--as") || path == "audit export"
		format := "json"
		if lines {
			format = "jsonl"
		}
		code, out, errOut := call(t, append(strings.Fields(path+" "+args), "-o", format)...)
		texts := []string{out}
		if lines {
			texts = strings.Split(strings.TrimSpace(out), "\n")
		}
		for _, text := range texts {
			if err := json.Unmarshal([]byte(text), &doc); err != nil {
				t.Errorf("%s %s: exit %d, %v:\n%s%s", path, args, code, err, out, errOut)
			}
		}
		return doc
	}
	field := func(doc any, name string) string {
		if list, is := doc.([]any); is && len(list) > 0 {
			doc = list[0]
		}
		m, is := doc.(map[string]any)
		if !is {
			t.Fatalf("%v has no %s", doc, name)
		}
		return fmt.Sprint(m[name])
	}

	runs("enqueue", "-f "+tasks)
	var groups []any
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		groups, _ = runs("dlq groups", "").([]any)
		return len(groups) == 3, fmt.Sprint(groups)
	})
	one, two := field(groups[0], "group"), field(groups[1], "group")
	id := field(runs("dlq ls", "--group "+two), "task_id")
	for _, c := range [][2]string{
		{"dlq ls", "--where .payload.n>0"}, {"dlq groups", one}, {"dlq show", id}, {"dlq export", "--state open"}, {"dlq export", "--where .payload.n>0"}, {"dlq groups", "--where .payload.n>0"}, {"dlq export", id + " --as go-test --dir " + dir},
		{"dlq try", id + " --url " + srv.URL}, {"dlq ack", one}, {"dlq note", one + " seen"}, {"dlq mute", one + " --for 1h"}, {"dlq resolve", one + " --release v9"}, {"dlq reopen", one},
		{"dlq merge", one + " " + two + " --why same"}, {"dlq unmerge", one + " --why not"}, {"dlq reindex", ""}, {"dlq recount", ""},
		{"dlq hold", "--group " + one + " --why look --yes"}, {"dlq release", "--group " + one + " --why seen --yes"}, {"dlq discard", "--group " + one + " --why no --yes"},
		{"tasks get", id}, {"why", id}, {"tasks cancel", "main-1-4"}, {"queues ls", ""}, {"outbox status", ""}, {"balance", ""},
		{"policy ls", ""}, {"policy test", "look"}, {"policy disable", "look --why no"}, {"policy enable", "look"},
		{"migrate status", ""}, {"migrate up", ""}, {"catalog apply", ""}, {"catalog check", "testdata/catalog.yaml"}, {"catalog explain", ""}, {"topics plan", ""},
		{"config", ""}, {"doctor", ""},
	} {
		runs(c[0], c[1])
	}
	plan := field(runs("replay plan", "--group "+two+" --rate 1"), "id")
	// Nobody approves a plan of his own.
	runs("env", "")
	env, err := config.ReadEnvFile(config.EnvFile(os.Getenv("PERDURE_DATA_DIR")))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(env, func(l config.EnvLine) bool { return l.Name == "PERDURE_POSTGRES_URL" })
	conn, err := pgx.Connect(t.Context(), env[at].Value)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // nothing is under way
	if _, err := conn.Exec(t.Context(), `update perdure.replays set who = 'ann', approval = 'it is sensitive' where replay = $1`, plan); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"replay status", ""}, {"replay status", plan}, {"replay rate", plan + " 2"}, {"replay approve", plan}, {"replay start", plan + " --yes --detach"},
		{"replay pause", plan}, {"replay resume", plan}, {"replay cancel", plan + " --why no"}, {"replay watch", plan}, {"replay report", plan}, {"replay letters", plan},
		{"audit ls", ""}, {"audit verify", ""}, {"audit export", ""}} {
		runs(c[0], c[1])
	}

	c := &cli{}
	for path := range leaves(newRoot(c)) {
		if _, is := elsewhere[path]; !done[path] && !is {
			t.Errorf("perdure %s is run by no test with -o json", path)
		}
	}
	// An export is as long as what it exports, and what is asked of it is not ignored.
	for _, args := range []string{"dlq export -o json", "dlq export -o text", "audit export -o json", "dlq export " + id + " --as go-test --kind mail.send",
		"dlq groups " + one + " --state open", "dlq groups " + one + " --limit 3", "dlq groups --topic x --until 1h", "dlq ls --sample 3"} {
		if code, out, errOut := call(t, strings.Fields(args)...); code != 2 || out != "" || errOut == "" {
			t.Errorf("%s: exit %d, want 2: %s%s", args, code, out, errOut)
		}
	}
}

func TestMigrateDownPrintsJSON(t *testing.T) {
	cleanEnv(t)
	t.Setenv("PERDURE_POSTGRES_URL", testkit.MigratedPostgres(t).URL)
	if code, out, errOut := call(t, "migrate", "down", "--yes", "-o", "json"); code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}

// leaves are the commands that do something, by their path without "perdure".
func leaves(root *cobra.Command) map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	for _, sub := range root.Commands() {
		if !sub.HasSubCommands() {
			all[strings.TrimPrefix(sub.CommandPath(), "perdure ")] = sub
			continue
		}
		maps.Copy(all, leaves(sub))
	}
	return all
}

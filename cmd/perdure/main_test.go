package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files again")

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "fix-jq" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	// fang asks for the terminal's width once a process, whichever test is first.
	if err := os.Setenv("__FANG_TEST_WIDTH", "100"); err != nil {
		panic(err)
	}
	testkit.Main(m)
}

// call runs a command line in an environment of its own.
func call(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

// cleanEnv takes every PERDURE_ variable away and gives an empty data folder.
func cleanEnv(t *testing.T) (dataDir string) {
	t.Helper()
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "PERDURE_") && !strings.HasPrefix(name, "PERDURE_TEST_") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	t.Setenv("PERDURE_DATA_DIR", dir)
	return dir
}

// writeCatalog puts a catalog into the environment.
func writeCatalog(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PERDURE_CATALOG", path)
	return path
}

const small = `version: 1
queues:
  mail: {partitions: 2}
kinds:
  mail.send:
    queue: mail
    timeout: 5s
    retry: {max_attempts: 3, initial_delay: 1s, max_delay: 1m}
    executor: {http: {url: "http://127.0.0.1:9/send"}}
`

func TestExitCodes(t *testing.T) {
	cleanEnv(t)
	writeCatalog(t, small)
	tests := []struct {
		args string
		code int
		says string // on stderr
	}{
		{"catalog check", 0, ""},
		{"catalog check /does/not/exist", 1, "is not there"},
		{"catalog explain nope", 2, `no kind "nope"`},
		{"bogus", 2, "unknown command"},
		{"tasks bogus", 2, "unknown command"},
		{"up extra", 2, "unknown command"},
		{"bogus kill --help", 2, "unknown command"},
		{"tasks bogus --help", 2, "unknown command"},
		{"tasks get --help", 0, ""},
		{"tasks --help", 0, ""},
		{"completion --help", 0, ""},
		{"completion bash --help", 0, ""},
		{"help tasks", 0, ""},
		{"--bogus", 2, "unknown flag"},
		{"config -o yaml", 2, "none of text, json, jsonl"},
		{"tasks get", 2, "accepts 1 arg"},
		{"why", 2, "accepts 1 arg"},
		{"migrate up", 2, "PERDURE_POSTGRES_URL"},
		{"migrate down --yes", 2, "PERDURE_POSTGRES_URL"},
		{"env", 1, "start `perdure up`"},
		{"replay start", 2, "say which letters"},
		{"replay report", 2, "accepts 1 arg"},
		{"replay report r-1 -o yaml", 2, "none of text, md, json, jsonl"},
		{"replay status -o md", 2, "none of text, json, jsonl"},
		{"replay start --kind mail.send", 3, "--dry-run"},
		{"replay start --group --dry-run --yes", 2, "--group"}, // --group $FP, and FP is empty
		{"replay start --id --yes", 2, "--id"},
		{"replay start --id main-1-1,,main-1-2 --yes", 2, "--id"},
		{"replay start --kind --yes", 2, "--kind"},
		{"replay start --kind mail.send --why --yes", 2, "--why"},
		{"replay start --group= --yes", 2, "--group"},
		{"replay start --id= --yes", 2, "--id"},
		{"dlq ls --group --kind mail.send", 2, "--group"},
		{"dlq groups --state=", 2, "--state"},
		{"dlq ack", 2, "accepts 1 arg"},
		{"dlq mute fp1:1 --for -1h", 2, "--for"},
		{"dlq note fp1:1", 2, "say TEXT"},
		{"dlq discard --why x --yes", 2, "say which letters"},
		{"dlq try main-1-1", 2, "say --url"},
		{"dlq try main-1-1 --url http://bank.example/pay", 3, "say --yes"},
		{"dlq try main-1-1 --url bank.example/pay", 2, "http or https"},
		{"dlq try main-1-1 --url ftp://localhost/pay --yes", 2, "http or https"},
		{"dlq discard main-1-1 --yes", 2, "say --why"},
		{"dlq export main-1-1", 2, "say --as go-test"},
		{"dlq export main-1-1 --as test", 2, "only go-test"},
		{"dlq export main-1-1 --as go-test --dir /does/not/exist", 2, "no Go package"},
		{"dlq export --as go-test", 2, "say its ID"},
		{"dlq discard --group --why x --yes", 2, "--group"}, // --group $FP, and FP is empty
		{"dlq ls --limit 0", 2, "--limit"},
		{"dlq ls --reason perm", 2, "no letter dies of that"},
		{"dlq discard --kind mail.send --reason closed --why x --yes", 2, "why you act is --why"},
		{"replay start --kind mail.send --reason mended --yes", 2, "why you act is --why"},
		{"replay plan --kind mail.send --success 90", 2, "from 0 to 1"},
		{"replay plan --kind mail.send --success NaN", 2, "from 0 to 1"},
		{"replay plan --kind mail.send --stop-error-rate -1", 2, "from 0 to 1"},
		{"dlq ls --since -1h", 2, "--since"},
		{"balance --since -1h", 2, "--since"},
		{"balance --since 0s", 2, "--since"},
		{"enqueue -f f --batch=", 2, "--batch"},
		{"enqueue -f --batch", 2, "--file"},
		{"demo -f /does/not/exist", 2, "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			code, _, errOut := call(t, strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(errOut, tt.says) {
				t.Errorf("exit %d, want %d; stderr %q, want it to say %q", code, tt.code, errOut, tt.says)
			}
		})
	}
}

func TestMigrateDownIsRefusedWithoutYes(t *testing.T) {
	cleanEnv(t)
	t.Setenv("PERDURE_POSTGRES_URL", "postgres://nobody@127.0.0.1:1/none")
	if code, _, errOut := call(t, "migrate", "down"); code != 3 || !strings.Contains(errOut, "--yes") {
		t.Errorf("exit %d, %q", code, errOut)
	}
}

func TestBadEnvironmentIsAUsageErrorThatNamesTheVariable(t *testing.T) {
	cleanEnv(t)
	t.Setenv("PERDURE_HISTORY", "seven days")
	t.Setenv("PERDURE_KAFKA_BROKER", "x:1")
	code, _, errOut := call(t, "config")
	if code != 2 || !strings.Contains(errOut, "PERDURE_HISTORY") || !strings.Contains(errOut, "did you mean PERDURE_KAFKA_BROKERS?") {
		t.Errorf("exit %d, %q", code, errOut)
	}
}

func TestAnAddressOfTheNetworkNeedsTokens(t *testing.T) {
	cleanEnv(t)
	writeCatalog(t, small)
	t.Setenv("PERDURE_HTTP_ADDR", "0.0.0.0:0")
	for _, role := range []string{"up", "dispatcher"} {
		if code, _, errOut := call(t, role); code != 2 || !strings.Contains(errOut, "PERDURE_API_TOKENS_FILE") {
			t.Errorf("%s: exit %d, %q", role, code, errOut)
		}
	}
}

func TestUpWithoutACatalogSaysWhatToWrite(t *testing.T) {
	dir := cleanEnv(t)
	t.Setenv("PERDURE_CATALOG", filepath.Join(t.TempDir(), "catalog.yaml"))
	code, _, errOut := call(t, "up")
	if code != 1 || !strings.Contains(errOut, "version: 1") || !strings.Contains(errOut, "perdure demo") {
		t.Errorf("exit %d, %q", code, errOut)
	}
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
		t.Error("a server was started for nothing")
	}
}

func TestGolden(t *testing.T) {
	cleanEnv(t)
	t.Setenv("PERDURE_DATA_DIR", "/var/lib/perdure")
	t.Setenv("PERDURE_POSTGRES_URL", "postgres://app:hunter2@db.internal/app")
	t.Setenv("PERDURE_REDIS_PASSWORD", "hunter2")
	t.Setenv("PERDURE_CATALOG", "testdata/catalog.yaml")
	for name, args := range map[string]string{
		"config":          "config",
		"config.json":     "config -o json",
		"catalog-check":   "catalog check",
		"catalog-bad":     "catalog check testdata/bad.yaml",
		"catalog-warned":  "catalog check testdata/warned.yaml",
		"catalog-explain": "catalog explain",
		"catalog-kind":    "catalog explain mail.send",
		"help":            "--help",
		"help-replay":     "replay start --help",
		"help-demo":       "demo --help",
		"help-tasks-get":  "tasks get --help",
		"help-why":        "why --help",
		"help-dlq-groups": "dlq groups --help",
		"help-migrate":    "migrate --help",
	} {
		t.Run(name, func(t *testing.T) {
			_, out, errOut := call(t, strings.Fields(args)...)
			got := out + errOut
			if strings.Contains(got, "hunter2") {
				t.Fatal("a secret is shown")
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test ./cmd/perdure -update writes it again):\n%s", path, got)
			}
		})
	}
}

func TestJSONIsJSON(t *testing.T) {
	cleanEnv(t)
	writeCatalog(t, small)
	for _, args := range []string{"config", "catalog check", "catalog explain", "catalog explain mail.send"} {
		_, out, _ := call(t, append(strings.Fields(args), "-o", "json")...)
		if !json.Valid([]byte(out)) {
			t.Errorf("%s -o json: %q", args, out)
		}
		_, out, _ = call(t, append(strings.Fields(args), "-o", "jsonl")...)
		for line := range strings.Lines(out) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s -o jsonl: %q", args, line)
			}
		}
	}
}

// The reason of an act may be said as --why or as --reason, except where --reason
// chooses letters.
func TestWhyMayBeSaidAsReason(t *testing.T) {
	acts := 0
	for path, cmd := range leaves(newRoot(&cli{})) {
		if cmd.Flags().Lookup("why") == nil {
			continue
		}
		acts++
		f := cmd.Flags().Lookup("reason")
		if f == nil {
			t.Errorf("%s takes no --reason", path)
			continue
		}
		if err := f.Value.Set("the shop is closed"); (err != nil) != (cmd.Flags().Lookup("kind") != nil) {
			t.Errorf("%s --reason: %v", path, err)
		}
	}
	if acts < 15 {
		t.Errorf("%d commands have --why", acts)
	}
}

// "$ID" with no ID is no id: it must not ask for something else.
func TestNoArgumentIsEmpty(t *testing.T) {
	cleanEnv(t)
	for path, cmd := range leaves(newRoot(&cli{})) {
		_, names, found := strings.Cut(cmd.Use, " ")
		if !found || strings.HasPrefix(names, "-") || strings.HasPrefix(path, "completion") || strings.HasPrefix(path, "help") {
			continue
		}
		args := strings.Fields(path)
		for name := range strings.FieldsSeq(names) {
			if strings.HasPrefix(strings.Trim(name, "["), "-") {
				break // a flag, and its value
			}
			args = append(args, " ")
		}
		if code, out, errOut := call(t, args...); code != 2 || out != "" || !strings.Contains(errOut, "empty") {
			t.Errorf("%q: exit %d, %s%s", args, code, out, errOut)
		}
	}
}

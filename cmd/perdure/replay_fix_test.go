package main

// Repairs, part of TestCommandsOnARunningSystem.

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
)

// planRepairs plans repairs of a group with one letter, and leaves it as it is.
func planRepairs(t *testing.T, group, id string) {
	t.Helper()
	plan := []string{"replay", "plan", "--group", group, "--dry-run"}
	code, out, errOut := call(t, append(plan, "--fix-jq", ".n = 70")...)
	if code != 3 || !strings.Contains(errOut, "1: effects: an earlier run") || !strings.Contains(errOut, "--no-effects") {
		t.Errorf("a repair of a task that ran: exit %d, %s%s", code, out, errOut)
	}
	jq := append(plan, "--no-effects", "it answers 422 first", "--fix-jq", `.n = 70 | .note = "\u009b31m"`)
	code, out, errOut = call(t, jq...)
	if code != 0 || strings.Contains(out, "\u009b") {
		t.Errorf("exit %d, %s%q", code, errOut, out)
	}
	for _, want := range []string{"would replay  1", "it answers 422 first", id + "@0 would be replayed as " + id + "-r1:", `-  "n": 7`, `+  "n": 70,`, `+  "note": "\u009b31m"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	_, out, _ = call(t, append(jq, "-o", "json")...)
	var shown struct {
		Fixes []struct {
			Letter, Diff  string
			Before, After map[string]any
		}
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil || len(shown.Fixes) != 1 || shown.Fixes[0].Before["n"] != 7.0 || shown.Fixes[0].After["n"] != 70.0 ||
		!strings.Contains(shown.Fixes[0].Diff, `+  "n": 70,`) {
		t.Errorf("-o json: %v\n%s", err, out)
	}

	file := filepath.Join(t.TempDir(), "patch.json")
	for text, want := range map[string]string{
		`[{"op": "replace", "path": "/n", "value": 70}]`: "",
		"[\n  {\"op\": \"replace\" \"path\": \"/n\"}]":   "line 2, column 20",
		`[{"op": "set", "path": "/n"}]`:                  "#/fixer/patch/0/op: must be",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errOut := call(t, append(plan, "--no-effects", "none", "--fix-patch", file)...)
		if (code == 0) != (want == "") || !strings.Contains(errOut, want) || want == "" && !strings.Contains(out, `+  "n": 70`) {
			t.Errorf("patch %s: exit %d, %s%s", text, code, out, errOut)
		}
	}
	for flags, want := range map[string]int{"--fix-jq .n=": 1, "--fix-jq . --fix-patch " + file: 2, "--fix-patch /nowhere": 1, "--no-effects none": 2} {
		if code, out, errOut := call(t, append(plan, strings.Fields(flags)...)...); code != want || out != "" {
			t.Errorf("%s: exit %d, want %d: %s%s", flags, code, want, out, errOut)
		}
	}
	says(t, "dlq ls --state open", id)
}

// repair enqueues a task that dies of its payload, and repairs it.
func repair(t *testing.T) (id string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "one.ndjson")
	if err := os.WriteFile(file, []byte(`{"kind":"mail.send","payload":{"n":7,"again":true}}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, "enqueue -f "+file, "1 accepted")
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		_, out, errOut := call(t, "dlq", "ls", "--state", "open", "-o", "json")
		var letters []struct {
			TaskID string `json:"task_id"`
		}
		if json.Unmarshal([]byte(out), &letters) == nil && len(letters) == 1 {
			id = letters[0].TaskID
		}
		return id != "", out + errOut
	})
	code, out, errOut := call(t, "replay", "start", "--id", id, "--fix-jq", ".n = 70", "--no-effects", "it answers 422 first", "--yes")
	if code != 0 || !strings.Contains(out, id+"@0 was replayed as "+id+"-r1:") {
		t.Errorf("exit %d, %s%s", code, out, errOut)
	}
	return id
}

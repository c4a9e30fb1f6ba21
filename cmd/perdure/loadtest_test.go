package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/exit"
	load "github.com/perdure/perdure/loadtest/run"
)

func TestLoadtestUsage(t *testing.T) {
	cleanEnv(t)
	for _, tt := range []struct{ args, want string }{
		{"--loop spiral", "spiral"},
		{"--mix nothing=1", "nothing"},
		{"--tasks 0", "tasks"},
		{"--baseline", "open loop"},
		{"--rate 100", "rate: the loop is closed"},
		{"--duration 5s", "duration: the loop is closed"},
		{"--loop open --rate 10 --tasks 100", "tasks: the loop is open"},
		{"--loop open --in-flight 5", "in-flight: the loop is open"},
		{"--rate x", "rate"},
		{"--no-such-flag", "no-such-flag"},
		{"more", "more"},
	} {
		code, out, errOut := call(t, append([]string{"loadtest", "run"}, strings.Fields(tt.args)...)...)
		if code != exit.Wrong || !strings.Contains(errOut, tt.want) || out != "" {
			t.Errorf("loadtest run %s: exit %d, %q, %q", tt.args, code, out, errOut)
		}
	}
}

// TestLoadtestRun: the result on stdout, and on stderr, which is no terminal,
// nothing.
func TestLoadtestRun(t *testing.T) {
	cleanEnv(t)
	code, out, errOut := call(t, "loadtest", "run", "--tasks", "300", "--warmup", "10", "--in-flight", "50", "-o", "json")
	if code != exit.Done || errOut != "" {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	var rep load.Report
	if err := json.Unmarshal([]byte(out), &rep); err != nil || rep.Begun != 300 || rep.Repeats != 0 {
		t.Errorf("%v: %s", err, out)
	}
}

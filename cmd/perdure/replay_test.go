package main

// How `replay start` ends, on an API that answers as told.

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/perdure/perdure/replayer"
)

func TestAReplayThatDidNothingDoesNotExit0(t *testing.T) {
	refusals := []replayer.Refusal{{Why: "completed: the task is completed", Letters: 2, Sample: "main-1-1@0"}}
	for name, tt := range map[string]struct {
		answer replayer.Replay
		code   int
		says   string // on stderr
	}{
		"no letter":       {replayer.Replay{State: replayer.Running}, 1, "no open letter matches"}, // and is not waited for
		"all refused":     {replayer.Replay{State: replayer.Done, Letters: 2, Refused: 2, Refusals: refusals}, 3, "2: completed: the task is completed"},
		"partly refused":  {replayer.Replay{State: replayer.Done, Letters: 3, Refused: 2, Replayed: 1, Refusals: refusals}, 0, ""},
		"all replayed":    {replayer.Replay{State: replayer.Done, Letters: 1, Replayed: 1}, 0, ""},
		"cancelled":       {replayer.Replay{State: replayer.Cancelled, Letters: 2, Left: 2}, 1, "was cancelled"},
		"cancelled later": {replayer.Replay{State: replayer.Cancelled, Letters: 2, Left: 1, Replayed: 1}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cleanEnv(t)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if err := json.NewEncoder(w).Encode(tt.answer); err != nil {
					t.Error(err)
				}
			}))
			defer srv.Close()
			t.Setenv("PERDURE_API_URL", srv.URL)
			code, out, errOut := call(t, "replay", "start", "--group", "fp1:00", "--yes")
			if code != tt.code || !strings.Contains(errOut, tt.says) || tt.code == 0 && errOut != "" {
				t.Errorf("exit %d, want %d; stderr %q, want it to say %q", code, tt.code, errOut, tt.says)
			}
			if tt.answer.Refused > 0 && !strings.Contains(out, "2 refused: completed") {
				t.Errorf("the counts are not shown: %s", out)
			}
		})
	}
}

// In a plan 0 is the default: who says 0 did not mean that.
func TestANoughtThatWouldBeTheDefaultIsRefused(t *testing.T) {
	for flag, want := range map[string]string{"--success": "--canary 0", "--stop-error-rate": "--stop-same 1"} {
		for _, verb := range []string{"plan", "start"} {
			cleanEnv(t)
			if code, _, errOut := call(t, "replay", verb, "--group", "fp1:00", flag, "0", "--dry-run"); code != 2 || !strings.Contains(errOut, want) {
				t.Errorf("%s %s 0: exit %d, %q, want 2 and %q", verb, flag, code, errOut, want)
			}
		}
	}
}

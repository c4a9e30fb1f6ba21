package main

// How `replay start` ends, on an API that answers as told.

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

func TestAPlanShowsItsFirstLettersAndTheirOrder(t *testing.T) {
	died := time.Date(2026, 11, 27, 2, 14, 5, 0, time.Local)
	r := &replayer.Replay{ID: "r-1", State: replayer.Planned, Letters: 2, Left: 1, Refused: 1, Order: replayer.Order, Spec: replayer.Spec{Canary: replayer.Canary{Off: true}},
		First: []replayer.ReplayLetter{
			{N: 1, Letter: "main-1-2@0", Kind: "pay", Key: "k\x1b", DiedAt: &died, Result: "left", ErrorClass: "HTTP 500", Message: "no"},
			{N: 2, Letter: "main-1-1@0", Kind: "pay", DiedAt: &died, Result: "refused", Why: "expired: its deadline has passed"},
		}}
	var b strings.Builder
	showReplay(&b, r)
	for _, want := range []string{"order", "oldest death first, of each key too", "first letters\n  main-1-2@0  pay, key k\\x1b: HTTP 500: no\n  main-1-1@0  pay: refused, expired: its deadline has passed\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	if got := letterLine(r.First[1]); got[1] != "main-1-1@0" || got[4] != "2026-11-27 02:14:05" || got[5] != "refused" || got[7] != r.First[1].Why {
		t.Errorf("%q", got)
	}
	if got := letterLine(replayer.ReplayLetter{Result: "replayed", Outcome: "died_again", Group: "fp1:aa"}); got[6] != "died_again of fp1:aa" {
		t.Errorf("%q", got)
	}
}

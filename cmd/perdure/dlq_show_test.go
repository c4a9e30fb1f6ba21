package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/dlq"
)

func TestALetterReadsLikeANote(t *testing.T) {
	at := time.Date(2026, 11, 27, 2, 14, 5, 0, time.Local)
	attempts, err := json.Marshal([]dlq.Attempt{
		{N: 1, Start: at, End: at.Add(1500 * time.Millisecond), Worker: "w-0", ErrorClass: "HTTP 503", Message: "HTTP 503: try \x1b[31mlater"},
		{Cut: 7},
		{N: 9, End: at.Add(time.Minute), Worker: "w-1", ErrorClass: "panic", Message: "index out of range", Stack: "main.pay(…) pay.go:12\nmain.main() main.go:3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := &dlq.LetterView{Entry: dlq.Entry{Letter: "main-1-42@0", TaskID: "main-1-42", Kind: "pay", Queue: "q", State: "open", Reason: "exhausted", ErrorClass: "panic",
		Message: "index out of range", Group: "fp1:01", DiedAt: at, Origin: "tasks.q/0/1", DLQ: "dlq.q/0/1", Attempts: attempts}, Payload: json.RawMessage(`{"n":1}`),
		Cuts: "7 attempts were left out", Past: []dlq.PastReplay{
			{Replay: "r-b", Letter: "main-1-42@0", Who: "ann", Result: "left", Why: "try \x1b[31magain"},
			{Replay: "r-a", Letter: "main-1-42@0", Who: "policy:mend", Result: "replayed", At: &at, Outcome: "died_again", Repair: 1, RepairDiff: "-  \"n\": 1\n+  \"n\": \x1b2\n"},
		}}
	var b strings.Builder
	showLetter(&b, l, "12 letters, 11 open, 3 in the last hour; acknowledged (ann)")
	const want = `letter   main-1-42@0
task     main-1-42
kind     pay
queue    q
state    open
reason   exhausted
error    panic
message  index out of range
group    fp1:01
         12 letters, 11 open, 3 in the last hour; acknowledged (ann)
died     2026-11-27 02:14:05
from     tasks.q/0/1
on       dlq.q/0/1
cut      7 attempts were left out
next     once the cause is mended: perdure replay plan --group fp1:01

tried
  1  11-27 02:14:05.000, 1.5s on w-0: HTTP 503: try \x1b[31mlater
  … 7 attempts were left out here
  9  11-27 02:15:05.000 on w-1: panic: index out of range
     at main.pay(…) pay.go:12

replayed before
  not yet  r-b by ann: main-1-42@0 left: try \x1b[31magain
  2026-11-27 02:14:05  r-a by policy:mend: main-1-42@0 replayed, died again, repaired (-r1)
-  "n": 1
+  "n": \x1b2

payload
  {
    "n": 1
  }
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEachLetterHasANextStep(t *testing.T) {
	for _, tt := range []struct{ state, reason, by, says string }{
		{"open", "permanent", "", "perdure replay plan --group G"},
		{"open", "undecodable", "", "as a new task"},
		{"open", "unknown", "", "if it did: perdure dlq discard L"},
		{"open", "expired", "", "its deadline is over"},
		{"held", "exhausted", "", "perdure replay start --id L --yes"},
		{"replaying", "exhausted", "", "perdure why T"},
		{"resolved", "exhausted", "replay", "perdure dlq show T"},
		{"resolved", "exhausted", "completed", "its task is completed"},
		{"discarded", "exhausted", "discard", "nothing"},
	} {
		got := next(&dlq.LetterView{Entry: dlq.Entry{Letter: "L", TaskID: "T", Group: "G", State: tt.state, Reason: tt.reason, ResolvedBy: tt.by}})
		if !strings.Contains(got, tt.says) {
			t.Errorf("%s, %s: %q, want it to say %q", tt.state, tt.reason, got, tt.says)
		}
	}
}

func TestTheLastHourIsSaidToBeMoreWhereItMayBe(t *testing.T) {
	for n, want := range map[int64]string{0: "0", dlq.MostInLastHour - 1: "9999", dlq.MostInLastHour: "10000+"} {
		if got := lastHour(&dlq.Group{LastHour: n}); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

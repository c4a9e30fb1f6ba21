package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
	"unicode"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/output"
	"github.com/perdure/perdure/replayer"
)

// hostile is a mebibyte of what a terminal obeys, what a browser runs and what no
// text is.
var hostile = strings.Repeat("\x1b]0;owned\a\x1b[2J\u009b31m\u202e<script>\x7f\r\x00\xff\xfe\u2028'; rm -rf ~ #", 20_000)

// obeyed is the first character of out that a terminal may act on.
func obeyed(out string) rune {
	for _, r := range out {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return r
		}
	}
	return 0
}

func TestAMebibyteOfAnythingIsSafeToShow(t *testing.T) {
	short := hostile[:200]
	attempts, err := json.Marshal([]dlq.Attempt{{N: 1, Worker: short, ErrorClass: short, Message: short, Stack: short}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	l := &dlq.LetterView{Payload: text, Entry: dlq.Entry{Letter: short, TaskID: short, Kind: short, Queue: short, State: "open", Reason: short, ErrorClass: short,
		Message: hostile, Group: short, Origin: short, Attempts: attempts}}
	line, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	event, err := json.Marshal(&replayer.Replay{Note: hostile})
	if err != nil {
		t.Fatal(err)
	}
	for name, show := range map[string]func(*cli) error{
		"a letter": func(c *cli) error {
			return output.Printer{Format: output.Text, W: c.out}.One(l, func(w io.Writer) { showLetter(w, l, "") })
		},
		"a letter as JSON":   func(c *cli) error { return output.Printer{Format: output.JSON, W: c.out}.One(l, nil) },
		"a letter as JSONL":  func(c *cli) error { return output.Printer{Format: output.JSONL, W: c.out}.One(l, nil) },
		"an export":          func(c *cli) error { return c.exported(append(line, '\n')) },
		"an event of replay": func(c *cli) error { return c.event(event) },
	} {
		var out bytes.Buffer
		if err := show(&cli{out: &out}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r := obeyed(out.String()); r != 0 || out.Len() < 100 {
			t.Errorf("%s: %d bytes, with %U", name, out.Len(), r)
		}
		if strings.Contains(name, "JSON") || strings.HasPrefix(name, "an ") {
			if !json.Valid(out.Bytes()) {
				t.Errorf("%s is no JSON any more", name)
			}
		}
	}
}

// What stands in a command to paste comes from records that anyone may write.
func TestACommandToPasteRunsNothingElse(t *testing.T) {
	const bad = "x'; echo owned; echo '$(echo owned)`echo owned`"
	for _, l := range []dlq.Entry{
		{State: "open", Reason: "permanent", Group: bad},
		{State: "held", Reason: "exhausted", Letter: bad},
		{State: "open", Reason: "undecodable", Letter: bad},
		{State: "held", Reason: "blocked", BlockedBy: bad},
		{State: "replaying", TaskID: bad},
		{State: "resolved", ResolvedBy: "replay", TaskID: bad},
	} {
		next := next(&dlq.LetterView{Entry: l})
		_, command, _ := strings.Cut(next, "perdure ")
		command, _, _ = strings.Cut(strings.Replace(command, "; or perdure", "\n", 1), "\n")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "perdure() { printf '%s\\n' \"$*\"; }; perdure "+strings.ReplaceAll(command, "…", "why")).Output()
		if err != nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), bad) {
			t.Errorf("%s\n  did %q, %v", next, out, err)
		}
	}
}

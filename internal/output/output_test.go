package output

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

func TestNothingATerminalObeysGetsThrough(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain – ünïcode 漢字", "plain – ünïcode 漢字"},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"a\r\nb\tc", `a\x0d\nb\tc`},
		{"\u009b2J", `\u009b2J`},
		{"\u202egpj.exe", `\u202egpj.exe`},
		{"bad\xff\xc3utf8", `bad\xff\xc3utf8`},
		{"real \uFFFD", "real \uFFFD"},
	}
	for _, tt := range tests {
		if got := Safe(tt.in); got != tt.want {
			t.Errorf("Safe(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := Block("a\n\tb\x1b"); got != "a\n\tb\\x1b" {
		t.Errorf("Block = %q", got)
	}
	if got := Cut("abcdef", 4); got != "abc…" {
		t.Errorf("Cut = %q", got)
	}
}

func TestEveryFormatIsSafeAndJSONKeepsItsValue(t *testing.T) {
	type row struct {
		Message string `json:"message"`
	}
	nasty := "x\x1b]0;title\x07\u009b31m\u202e\x7f"
	for _, f := range []Format{Text, JSON, JSONL} {
		var b strings.Builder
		p := Printer{Format: f, W: &b}
		rows := []row{{nasty}, {"ok"}}
		if err := Table(p, rows, "none", []string{"MESSAGE"}, func(r row) []string { return []string{r.Message} }); err != nil {
			t.Fatal(err)
		}
		for _, r := range b.String() {
			if r != '\n' && (unicode.IsControl(r) || r == 0x202e) {
				t.Errorf("%s lets %U through: %q", f, r, b.String())
			}
		}
		if f == JSON {
			var back []row
			if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back[0].Message != nasty {
				t.Errorf("value changed: %q, %v", back, err)
			}
		}
	}
}

func TestEmptyTables(t *testing.T) {
	for f, want := range map[Format]string{Text: "no letters\n", JSON: "[]\n", JSONL: ""} {
		var b strings.Builder
		if err := Table(Printer{f, &b}, []int(nil), "no letters", nil, nil); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v", f, b.String(), err)
		}
	}
}

func TestFormatRefusesOthers(t *testing.T) {
	var f Format
	if err := f.Set("yaml"); err == nil {
		t.Error("yaml accepted")
	}
}

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/replayer"
)

// reportOf is a replay of which every text from outside is s.
func reportOf(s string) *replayer.Report {
	at := time.Date(2026, 11, 27, 2, 14, 5, 0, time.UTC)
	r := &replayer.Report{
		Replay: replayer.Replay{ID: "r-1", State: "done", Note: s, Selector: []byte(`{"group":"fp1:01"}`), Hash: "abc", Who: s, Why: s, Approval: s, ApprovedBy: s, CreatedAt: at,
			Letters: 950, Replayed: 900, Refused: 50, Refusals: []replayer.Refusal{{Why: s, Letters: 50, Sample: s}},
			Became: &replayer.Became{Completed: 890, DiedAgain: 10, Causes: []replayer.Cause{{Group: s, Letters: 10}}}},
		Causes: []replayer.ReportCause{{Group: s, Letters: 950, ErrorClass: s, Message: s, FirstDied: at, LastDied: at, Owner: s, Note: s, Runbook: s}},
		Gone:   3,
		Acts:   []replayer.ReportAct{{Who: s, What: "replay.start", Why: s, Times: 1, First: at, Last: at}, {Who: s, What: "letters.replay", Times: 2, First: at, Last: at}},
		Audit:  replayer.ReportAudit{Rows: 4, From: 7, To: 12, Hash: "def"},
	}
	r.Replay.Spec.Where = s
	return r
}

func TestTheReportIsANote(t *testing.T) {
	md := markdownReport(reportOf("bank"))
	for _, want := range []string{
		"# Replay `r-1`: 900 of 950 letters replayed, 50 refused; 890 completed, 10 died again, 0 under way\n",
		"- planned by `bank`, 2026-11-27 02:14:05 UTC: `bank`\n", "- approved by `bank`, because `bank`\n",
		"\n## Cause\n\n- 950 letters of `bank`, ", "  - error: `bank`\n", "- 3 letters whose cause is no longer known",
		"\n## Refused\n\n- 50: `bank`, such as `bank`\n", "\n## Died again\n\n- 10 of `bank`\n",
		"- 2026-11-27 02:14:05 UTC `bank` replay.start: `bank`\n", "`bank` letters.replay, 2 times until 2026-11-27 02:14:05 UTC\n",
		"- plan: `abc`\n- audit: places 7 to 12, last hash `def`; check it with `perdure audit verify`\n",
	} {
		if !strings.Contains(md, want) {
			t.Errorf("%q is missing in\n%s", want, md)
		}
	}
	var b strings.Builder
	textReport(&b, reportOf("bank"))
	for _, want := range []string{"r-1", "950 died of bank: bank", "bank  replay.start: bank", "4 rows, places 7 to 12, last hash def"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

// An error's text cannot make a heading, a link, a mention, HTML or a new line: take
// the code spans out, as CommonMark reads them, and nothing of it is left.
func TestNoTextBreaksTheNote(t *testing.T) {
	tame := unspan(t, markdownReport(reportOf("bank")))
	for _, s := range []string{"`", "``", "a`b``c```d", "` # x", "x\n# y\n", "\r\n- z", "<script>", "[a](b)", "@everyone", "|", "\\`", "**b**", "\x1b[31m", "\u202e", "\u2028x", " ", "-->", "~~~", "```\n", strings.Repeat("`", 600), "\xff"} {
		md := markdownReport(reportOf(s))
		if got := unspan(t, md); got != tame {
			t.Errorf("%q changes the note:\n%s", s, md)
		}
		if strings.ContainsAny(md, "\x1b\r\u202e\u2028") {
			t.Errorf("%q lets a control character through", s)
		}
	}
}

// unspan puts one mark in each code span's place, by CommonMark's rule: a run of
// backquotes opens, and the next run of the same length closes.
func unspan(t *testing.T, md string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(md) {
		for line != "" {
			i := strings.IndexByte(line, '`')
			if i < 0 {
				b.WriteString(line)
				break
			}
			b.WriteString(line[:i] + "§")
			line = line[i:]
			n := len(line) - len(strings.TrimLeft(line, "`"))
			rest := line[n:]
			for {
				i := strings.IndexByte(rest, '`')
				if i < 0 {
					t.Fatalf("a code span does not end: %q", line)
				}
				rest = rest[i:]
				m := len(rest) - len(strings.TrimLeft(rest, "`"))
				rest = rest[m:]
				if m == n {
					break
				}
			}
			line = rest
		}
	}
	return b.String()
}

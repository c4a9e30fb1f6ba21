package dlq

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestALetterShowsItsTasksPast(t *testing.T) {
	d := newDesk(t)
	d.deadRows([]deadRow{
		{letter: "main-1-1@0", kind: "k", queue: "q", reason: "permanent", state: "resolved", group: "fp1:01", died: time.Unix(1e9, 0)},
		{letter: "main-1-1@1", kind: "k", queue: "q", reason: "permanent", state: "open", group: "fp1:01", died: time.Unix(2e9, 0)},
		{letter: "main-1-2@0", kind: "k", queue: "q", reason: "permanent", state: "open", group: "fp1:01", died: time.Unix(2e9, 0)},
	})
	if _, err := d.db.Exec(t.Context(), `
with u as (update perdure.dead_letters set task_id = split_part(letter, '@', 1), payload = '{"amount":"7"}', attempts = '[{"n":1},{"cut":4},{"cut":2}]', cut = letter = 'main-1-2@0')
insert into perdure.replays (replay, state, selector, dry_run, who, why) values
  ('r-a', 'done', '{}', false, 'ann', 'bank is back'), ('r-b', 'done', '{}', false, 'policy:mend', ''), ('r-dry', 'done', '{}', true, 'ann', ''), ('r-other', 'done', '{}', false, 'ann', ''),
  ('r-off', 'cancelled', '{}', false, 'ann', ''), ('r-now', 'ramping', '{}', false, 'ann', '')`); err != nil {
		t.Fatal(err)
	}
	if _, err := d.db.Exec(t.Context(), `
with f as (insert into perdure.replay_fixes (replay, n, letter, payload, repair) values ('r-a', 1, 'main-1-1@0', '{"amount":7}', 1))
insert into perdure.replay_letters (replay, n, letter, result, detail, outcome, done_at) values
  ('r-a', 1, 'main-1-1@0', 'replayed', '', 'died_again', '2026-01-01'), ('r-b', 9, 'main-1-1@1', 'refused', 'schema: no', '', '2026-02-01'),
  ('r-dry', 1, 'main-1-1@1', 'would_replay', '', '', '2026-03-01'), ('r-other', 1, 'main-1-2@0', 'replayed', '', '', '2026-03-01'),
  ('r-off', 1, 'main-1-2@0', '', '', '', null), ('r-now', 1, 'main-1-2@0', '', '', '', null)`); err != nil {
		t.Fatal(err)
	}
	var v LetterView
	d.send(http.MethodGet, "/v1/dead-letters/main-1-1", "", 200, &v)
	if len(v.Past) != 2 || v.Past[0].Replay != "r-b" || v.Past[1].Replay != "r-a" {
		t.Fatalf("%+v", v.Past)
	}
	if p := v.Past[0]; p.Result != "refused" || p.Why != "schema: no" || p.Letter != "main-1-1@1" || p.Repair != 0 || p.Who != "policy:mend" {
		t.Errorf("%+v", p)
	}
	if p := v.Past[1]; p.Result != "replayed" || p.Why != "bank is back" || p.Outcome != "died_again" || p.Repair != 1 || !strings.Contains(p.RepairDiff, `+  "amount": 7`) {
		t.Errorf("%+v", p)
	}
	if v.Cuts != "6 attempts were left out: all of them were too large" {
		t.Errorf("cuts: %q", v.Cuts)
	}
	d.send(http.MethodGet, "/v1/dead-letters/main-1-2", "", 200, &v)
	if !strings.Contains(v.Cuts, "too large to be kept whole") || !strings.Contains(v.Cuts, "6 attempts") {
		t.Errorf("cuts: %q", v.Cuts)
	}
	// The replay that is over will not come to it; the one that runs may.
	if len(v.Past) != 2 || v.Past[0].Replay != "r-now" || v.Past[0].Result != "left" || v.Past[1].Replay != "r-other" {
		t.Errorf("%+v", v.Past)
	}
	// What a repair made of a payload is a payload.
	e, err := NewLetters(d.db).Get(t.Context(), "main-1-1@0")
	if err != nil {
		t.Fatal(err)
	}
	past, err := NewLetters(d.db).past(t.Context(), e, false)
	if b, _ := json.Marshal(past); err != nil || strings.Contains(string(b), "amount") || len(past) != 2 {
		t.Errorf("without the right to read payloads: %s %v", b, err)
	}
}

// A text that was longer says so at its end, and the letter in its own words.
func TestALetterSaysThatATextWasCut(t *testing.T) {
	long, fits := strings.Repeat("ü", MaxMessage), strings.Repeat("x", MaxMessage)
	for name, c := range map[string]struct {
		message string
		attempt Attempt
		want    bool
	}{
		"message":         {long, Attempt{}, true},
		"attempt's":       {"short", Attempt{Message: long}, true},
		"attempt's stack": {"short", Attempt{Stack: strings.Repeat("f\n", maxStack)}, true},
		"none":            {fits, Attempt{Message: fits, Stack: fits}, false},
	} {
		l := letterOf("main-1-1", 0)
		l.Message, l.Attempts = c.message, []Attempt{c.attempt}
		back, _, err := Decode(Encode(l))
		if err != nil {
			t.Fatal(err)
		}
		if cut := strings.HasSuffix(back.Message, cutMark); len(back.Message) > MaxMessage || cut != (c.message == long) {
			t.Errorf("%s: %d bytes, cut: %v", name, len(back.Message), cut)
		}
		said := cuts(&Entry{Message: back.Message, Attempts: EncodeAttempts(back.Attempts, 0)})
		if strings.Contains(said, "an error's text that ends in …(cut) was longer: messages are kept up to 4 KiB") != c.want {
			t.Errorf("%s: %q", name, said)
		}
	}
}

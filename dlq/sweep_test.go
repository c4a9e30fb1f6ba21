package dlq

// Letters, and letters and resolutions, that do not see each other.

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestALetterAndItsResolutionWrittenAtOnceAreSettledLater(t *testing.T) {
	r, x := storeRig(t)
	exec := func(sql string, args ...any) {
		if _, err := r.db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"main-1-1", "main-1-2"} {
		exec(`insert into perdure.replays (replay, state, selector, who) values ($1, 'running', '{}', 't')`, "r-"+id)
		exec(`insert into perdure.replay_letters (replay, letter, n, result) values ('r-' || $1::text, $1 || '@0', 1, 'replayed')`, id)
	}
	// Two transactions, each with a half of both tasks; neither sees the other's.
	a, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Rollback(context.Background()) //nolint:errcheck // it is committed by then, or the test has failed
	letters := &batch{}
	for _, id := range []string{"main-1-1", "main-1-2"} {
		letters.letters = append(letters.letters, row(letterOf(id, 0), "payments", &kgo.Record{Topic: "d"}))
	}
	if err := letters.copyLetters(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	ends := &batch{resolved: []Resolution{{TaskID: "main-1-1", At: time.Now().Add(-48 * time.Hour)}, {TaskID: "main-1-2", Epoch: 1, At: time.Now(), Cancelled: true}}}
	if err := x.store(t.Context(), ends); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 2 {
		t.Fatalf("%d letters are open, want both: the transactions saw each other", n)
	}
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'resolved' and resolved_by = case task_id when 'main-1-1' then 'completed' else 'cancelled' end`); n != 2 {
		t.Errorf("%d letters are settled by what their tasks became, want 2", n)
	}
	if n := r.count(`select count(*) from perdure.replay_outcomes`); n != 2 {
		t.Errorf("%d outcomes, want 2", n)
	}
	// The next sweep looks again at what was written within the last minutes.
	exec(`update perdure.dead_letters set state = 'open', resolved_by = '' where task_id = 'main-1-1'`)
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 0 {
		t.Error("a letter that came later than its resolution by less than a transaction may take is open")
	}
}

func TestTwoLettersOfATaskWrittenAtOnceAreSettledLater(t *testing.T) {
	r, x := storeRig(t)
	if _, err := r.db.Exec(t.Context(), `with r as (insert into perdure.replays (replay, state, selector, who) values ('r-1', 'running', '{}', 't'))
insert into perdure.replay_letters (replay, letter, n, result) values ('r-1', 'main-1-1@0', 1, 'replayed')`); err != nil {
		t.Fatal(err)
	}
	a, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Rollback(context.Background()) //nolint:errcheck // it is committed by then, or the test has failed
	letter := func(id string, epoch int) letterRow {
		l := row(letterOf(id, epoch), "payments", &kgo.Record{Topic: "d"})
		l.Fingerprint = "fp1:aa"
		return l
	}
	older := &batch{letters: []letterRow{letter("main-1-1", 0), letter("main-1-2", 0)}}
	if err := older.copyLetters(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := x.store(t.Context(), &batch{letters: []letterRow{letter("main-1-1", 1)}}); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 3 {
		t.Fatalf("%d letters are open, want all: the transactions saw each other", n)
	}
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where letter = 'main-1-1@0' and state = 'resolved' and resolved_by = 'replay'`); n != 1 {
		t.Error("the letter of a task that died again is open")
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'open'`); n != 2 {
		t.Errorf("%d letters are open, want the newer one and another task's", n)
	}
	if n := r.count(`select count(*) from perdure.replay_outcomes where outcome = 'died_again' and same`); n != 1 {
		t.Errorf("%d outcomes of its replay, want 1", n)
	}
}

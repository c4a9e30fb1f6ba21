package dlq

// Decisions of letters, over HTTP.

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
)

// states are the states of letters 1, 2, …, by their first letters.
func (d *desk) states() string {
	d.t.Helper()
	rows, err := d.db.Query(d.t.Context(), `select left(state, 3) from perdure.dead_letters order by origin_offset, letter`)
	if err != nil {
		d.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func (d *desk) decide(what, body string) Decided {
	d.t.Helper()
	var a Decided
	d.send(http.MethodPost, "/v1/dead-letters/"+what, body, 200, &a)
	return a
}

func TestOnlyWhatADecisionMayTouchIsTouched(t *testing.T) {
	d := newDesk(t)
	at := time.Unix(1e9, 0)
	var rows []deadRow
	for i, state := range []string{"open", "held", "replaying", "resolved", "discarded"} {
		rows = append(rows, deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "permanent", state: state, group: "fp1:01", died: at})
	}
	d.deadRows(append(rows, deadRow{letter: "main-1-9@0", kind: "k", queue: "q", reason: "permanent", state: "open", group: "fp1:02", died: at}))
	const group = `{"selector":{"group":"fp1:01"},"why":"test"`
	if a := d.decide("discard", group+`,"dry_run":true}`); a != (Decided{Letters: 2, DryRun: true}) || d.states() != "ope hel rep res dis ope" {
		t.Fatalf("a dry run: %+v, %s", a, d.states())
	}
	if a := d.decide("hold", group+`}`); a.Letters != 1 || d.states() != "hel hel rep res dis ope" {
		t.Fatalf("hold: %+v, %s", a, d.states())
	}
	if a := d.decide("release", group+`}`); a.Letters != 2 || d.states() != "ope ope rep res dis ope" {
		t.Fatalf("release: %+v, %s", a, d.states())
	}
	if a := d.decide("discard", group+`}`); a.Letters != 2 || d.states() != "dis dis rep res dis ope" {
		t.Fatalf("discard: %+v, %s", a, d.states())
	}
	if a := d.decide("discard", group+`}`); a.Letters != 0 {
		t.Fatalf("again: %+v", a)
	}
	for what, n := range map[string]int64{"letter.hold": 1, "letter.release": 2, "letter.discard": 2} {
		if got := d.asked(what); got != n {
			t.Errorf("%d rows %s in the audit, want %d", got, what, n)
		}
	}
	var by string
	if err := d.db.QueryRow(t.Context(), `select string_agg(distinct resolved_by, ',') from perdure.dead_letters where letter in ('main-1-0@0', 'main-1-1@0')`).Scan(&by); err != nil || by != "discard" {
		t.Errorf("resolved by %q, %v", by, err)
	}
}

func TestADecisionIsOfWhatWasSelected(t *testing.T) {
	d := newDesk(t)
	old, late := time.Unix(1e9, 0), time.Unix(1e9+3600, 0)
	base := deadRow{kind: "k", queue: "q", reason: "permanent", state: "open", group: "fp1:01", died: old}
	rows := make([]deadRow, 7)
	for i := range rows {
		rows[i] = base
		rows[i].letter = fmt.Sprintf("main-1-%d@0", i)
	}
	rows[1].kind, rows[2].queue, rows[3].reason, rows[4].group, rows[5].died = "l", "r", "poison", "fp1:02", late
	d.deadRows(rows)
	if _, err := d.db.Exec(t.Context(), `update perdure.dead_letters set key = 'x', task_id = 'main-1-6' where letter = 'main-1-6@0'`); err != nil {
		t.Fatal(err)
	}
	for selector, want := range map[string]string{
		`{"kind":"l"}`: "1", `{"queue":"r"}`: "2", `{"reason":"poison"}`: "3", `{"group":"fp1:02"}`: "4", `{"since":"2001-09-09T02:00:00Z"}`: "5",
		`{"until":"2001-09-09T02:00:00Z"}`: "012346", `{"key":"x"}`: "6", `{"ids":["main-1-6"]}`: "6", `{"ids":["main-1-0@0","main-1-1@0"],"kind":"k"}`: "0",
		`{"all":true}`: "0123456", `{"kind":"none"}`: "",
	} {
		if a := d.decide("hold", `{"selector":`+selector+`,"why":"test"}`); a.Letters != len(want) {
			t.Errorf("%s: %+v, want %d", selector, a, len(want))
		}
		if got := shown(t, get(d.api, "/v1/dead-letters?state=held"), "letter"); got != want {
			t.Errorf("%s held %q, want %q", selector, got, want)
		}
		d.decide("release", `{"selector":{"all":true},"why":"test"}`)
	}
	for body, pointer := range map[string]string{
		`{"selector":{},"why":"x"}`:                         `#/selector`,
		`{"selector":{"all":true},"why":""}`:                `#/why`,
		`{"selector":{"all":true}}`:                         `#`,
		`{"selector":{"all":true},"why":"x","limit":10001}`: `#/limit`,
		`{"selector":{"groups":"fp1:01"},"why":"x"}`:        `#/selector`,
		`{"selector":{"reason":"perm"},"why":"x"}`:          `#/selector/reason`,
	} {
		var p api.Problem
		d.send(http.MethodPost, "/v1/dead-letters/discard", body, 422, &p)
		if text := fmt.Sprintf("%q", p.Errors); !strings.Contains(text, pointer) {
			t.Errorf("%s: %s", body, text)
		}
	}
}

// open adds n open letters of one group.
func (d *desk) open(n int) {
	rows := make([]deadRow, n)
	for i := range rows {
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "permanent", state: "open", group: "fp1:01", died: time.Unix(1e9, 0)}
	}
	d.deadRows(rows)
}

// Who finds only letters that another decided of meanwhile goes on to the rest.
func TestADecisionOfWhatOthersTookGoesOn(t *testing.T) {
	d := newDesk(t)
	d.open(most + 50)
	sel := &LetterSelector{Group: "fp1:01"}
	other, err := d.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Rollback(t.Context()) //nolint:errcheck // committed below
	if _, err := other.Exec(t.Context(), decideLetters, append(sel.args(Discard, most), "discarded", "discard", "other", "letter.discard", "first", "")...); err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	go func() {
		defer close(done)
		n, err := NewLetters(d.db).Decide(t.Context(), Discard, sel, "test", "second", decideMost)
		if err != nil {
			t.Error(err)
		}
		done <- n
	}()
	testkit.Eventually(t, 30*time.Second, func() (waits bool, _ string) {
		err := d.db.QueryRow(t.Context(), `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waits)
		return waits && err == nil, fmt.Sprint("nobody waits for the other: ", err)
	})
	if err := other.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := <-done; n != 50 || d.audited("letter.discard") != most+50 {
		t.Errorf("%d decided, %d in all, want 50 and %d", n, d.audited("letter.discard"), most+50)
	}
}

func TestManyDecidersDecideOfEachLetterOnce(t *testing.T) {
	d := newDesk(t)
	const n = 2500 // more than a transaction takes
	d.open(n)
	if a := d.decide("discard", `{"selector":{"group":"fp1:01"},"why":"some","limit":500}`); a != (Decided{Letters: 500, More: true}) {
		t.Fatalf("%+v", a)
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	total := 500
	for _, what := range []string{"discard", "hold", "discard", "hold"} {
		group.Go(func() {
			decision := map[string]Decision{"discard": Discard, "hold": Hold}[what]
			got, err := NewLetters(d.db).Decide(t.Context(), decision, &LetterSelector{Group: "fp1:01"}, "test", "race", decideMost)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += got
		})
	}
	group.Wait()
	discarded, held := d.audited("letter.discard"), d.audited("letter.hold")
	if int64(total) != discarded+held || discarded != n {
		t.Errorf("%d decided, %d discards and %d holds in the audit, want each of %d letters discarded once", total, discarded, held, n)
	}
}

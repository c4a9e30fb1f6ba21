package dlq

// What processes of the version before do while an upgrade is under way: they know one
// table of letters, and write its view.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/perdure/perdure/internal/testkit"
)

// As that version wrote them.
const (
	olderMove = `
with p as materialized (select d.letter from perdure.dead_letters d where d.letter = $1 and d.state = 'open' order by d.letter for update of d),
l as (
  update perdure.dead_letters d set state = 'replaying', replays = replays + 1, changed_at = clock_timestamp()
  from p where d.letter = p.letter and d.state = 'open' returning d.letter, d.payload)
select count(*) from l`
	olderBare  = `with l as (update perdure.dead_letters set state = 'discarded', resolved_by = 'discard' where letter = $1 and state = 'open' returning 1) select count(*) from l`
	olderPrune = `
with l as (delete from perdure.dead_letters where letter in (
  select letter from perdure.dead_letters where queue = 'q' and state in ('resolved', 'discarded') and changed_at < now() + $1::interval
  order by changed_at limit 100 for update skip locked) returning 1) select count(*) from l`
	olderJoin = `with l as (update perdure.dead_letters set fingerprint = 'fp1:other', joined_from = fingerprint where letter = $1 returning 1) select count(*) from l`
)

func TestAnOlderVersionWritesLetters(t *testing.T) {
	r, _ := storeRig(t)
	ctx := t.Context()
	var rows []deadRow
	for i := range 10 {
		rows = append(rows, deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "q", reason: "permanent", state: "open", group: "fp1:a", died: time.Now(), payload: []byte("{}")})
	}
	r.deadRows(rows) // by COPY
	// A statement that waited for another sees what that did: one of the two wins.
	for i, rival := range []string{olderMove, olderBare} {
		letter := fmt.Sprintf("main-1-%d@0", i)
		first, err := r.db.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer first.Rollback(context.Background()) //nolint:errcheck // it is committed, or the test has failed
		if _, err := first.Exec(ctx, `update perdure.letter_states set state = 'held' where letter = $1`, letter); err != nil {
			t.Fatal(err)
		}
		moved := make(chan int, 1)
		go func() {
			var n int
			if err := r.db.QueryRow(ctx, rival, letter).Scan(&n); err != nil {
				t.Error(err)
			}
			moved <- n
		}()
		testkit.Eventually(t, time.Minute, func() (bool, string) {
			return r.count(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) == 1, "the second does not wait"
		})
		if err := first.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if n := <-moved; n != 0 || r.count(`select count(*) from perdure.dead_letters where letter = $1 and state = 'held'`, letter) != 1 {
			t.Errorf("%d letters moved that were held first: %s", n, rival)
		}
	}
	// A rival that changed something else of the letter is not undone.
	rival, err := r.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer rival.Rollback(context.Background()) //nolint:errcheck // it is committed, or the test has failed
	if _, err := rival.Exec(ctx, `update perdure.letter_states set fingerprint = 'fp1:b', joined_from = 'fp1:a' where letter = 'main-1-5@0'`); err != nil {
		t.Fatal(err)
	}
	moved := make(chan error, 1)
	go func() {
		_, err := r.db.Exec(ctx, olderMove, "main-1-5@0")
		moved <- err
	}()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		return r.count(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`) == 1, "the second does not wait"
	})
	if err := errors.Join(rival.Commit(ctx), <-moved); err != nil {
		t.Fatal(err)
	}
	if r.count(`select count(*) from perdure.letter_states where letter = 'main-1-5@0' and state = 'replaying' and replays = 1 and fingerprint = 'fp1:b' and joined_from = 'fp1:a'`) != 1 {
		t.Error("a move by an older version undid a merge")
	}
	do := func(want int, sql string, args ...any) {
		t.Helper()
		var n int
		if err := r.db.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...).Scan(&n); err != nil || n != want {
			t.Errorf("%d letters, want %d: %s: %v", n, want, sql, err)
		}
	}
	do(1, olderMove, "main-1-2@0")
	do(0, olderMove, "main-1-2@0")
	do(1, olderBare, "main-1-3@0")
	do(1, olderJoin, "main-1-4@0")
	if wrong := r.counted(); wrong != "" {
		t.Error(wrong)
	}
	do(1, olderPrune, time.Hour)
	do(9, `select count(*) from perdure.letters l join perdure.letter_states s using (letter, kind, queue, reason, release, died_at, epoch)`)
	if wrong := r.counted(); wrong != "" {
		t.Error(wrong)
	}
}

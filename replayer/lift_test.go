package replayer

// Lifts without the other roles: what is in the index is put there, and the worker's
// answer too.

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// lifts runs Lifts until the test ends.
func (r *rig) lifts() {
	r.t.Helper()
	l, err := NewLifts(LiftsConfig{Poll: 5 * time.Millisecond}, LiftsDeps{DB: r.db, Log: testkit.Logger(r.t)})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

// becomes waits for a count.
func (r *rig) becomes(want int, sql string, args ...any) {
	r.t.Helper()
	testkit.Eventually(r.t, time.Minute, func() (bool, string) {
		n := r.count(sql, args...)
		return n == want, fmt.Sprintf("%d, want %d: %s", n, want, sql)
	})
}

const marks = `select count(*) from perdure.outbox where kind = 'perdure.line' and key = 'k' and headers ->> 'perdure_line' like $1`

// The letters of a key may be pruned before a worker answers: it stands at the ask
// all the same, and goes on only by its end.
func TestALiftWhoseLettersArePrunedEnds(t *testing.T) {
	r := newRig(t)
	r.letters(1, 1, func(t *schemas.Task) { t.Ordered = true })
	r.exec(`update perdure.dead_letters set block = true`)
	r.lifts()
	r.exec(`update perdure.dead_letters set state = 'discarded'`)
	r.becomes(1, marks, "ask %")
	r.exec(`delete from perdure.dead_letters`)
	r.exec(`select perdure.answer_lift('payments', 'k', 'main-1-1', (select lift from perdure.key_lifts), 'main-1-1@0')`)
	r.becomes(1, marks, "end %")
	r.becomes(1, marks, "lift % main-1-1@0")
	r.becomes(0, `select count(*) from perdure.key_lifts`)
}

// Whose letters come meanwhile, also those of another source that has the same key:
// all words of a lift name the task that its ask named, or its worker would not know
// that they are meant.
func TestTheWordsOfALiftNameOneTask(t *testing.T) {
	r := newRig(t)
	r.letters(1, 1, func(t *schemas.Task) { t.Ordered = true })
	r.exec(`update perdure.dead_letters set block = true`)
	r.lifts()
	r.exec(`update perdure.dead_letters set state = 'discarded'`)
	r.becomes(1, marks, "ask %")
	r.letters(2, 2, func(t *schemas.Task) { t.ID, t.Ordered = "other-1-2", true })
	r.exec(`update perdure.dead_letters set reason = 'blocked', state = 'held', dlq_offset = 9 where task_id = 'other-1-2'`)
	r.exec(`select perdure.answer_lift('payments', 'k', 'main-1-1', (select lift from perdure.key_lifts), 'main-1-1@0')`)
	r.becomes(1, marks, "end %")
	r.becomes(0, `select count(*) from perdure.outbox where kind = 'perdure.line' and task_id <> 'main-1-1'`)
	r.becomes(1, `select count(*) from perdure.outbox where task_id = 'other-1-2' and epoch = 1 and headers ->> 'perdure_line' like 'from %'`)
}

// waiting are letters of main-1-<from…to> that wait behind another of the key.
func (r *rig) waiting(key string, from, to int) {
	r.t.Helper()
	r.letters(from, to, func(t *schemas.Task) { t.Key, t.Ordered = key, true })
	r.exec(`update perdure.dead_letters set key = $1, reason = 'blocked', state = 'held', place = substr(task_id, 8)::bigint
where substr(task_id, 8)::bigint between $2 and $3`, key, from, to)
}

// Each task that waits is asked whether a letter stands: what that reads must not
// grow with those that wait already.
func TestAWaitingTaskIsFiledWithoutReadingTheOthers(t *testing.T) {
	r := newRig(t)
	r.letters(1, 1, func(t *schemas.Task) { t.Ordered = true })
	r.exec(`insert into perdure.dead_letters (letter, state, epoch, queue, key, reason, fingerprint, run, origin_topic, origin_partition, origin_offset,
  dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'held', 0, 'payments', 'k', 'blocked', 'fp1:aa', 0, 't', 0, i, 'd', 0, i, now() from generate_series(2, 1500) i`)
	r.exec(`update perdure.dead_letters set block = true, state = 'replaying' where letter = 'main-1-1@0'`) // behind all the others, wherever they are read
	r.exec(`analyze perdure.letters, perdure.letter_states`)
	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it changes nothing
	var stands bool
	var read int64
	if err := tx.QueryRow(t.Context(), `select perdure.blocks_stand('payments', 'k')`).Scan(&stands); err != nil || !stands {
		t.Fatal(stands, err)
	}
	if err := tx.QueryRow(t.Context(), `select pg_stat_get_xact_tuples_fetched(t) + pg_stat_get_xact_tuples_returned(t) from (select 'perdure.dead_letters'::regclass::oid as t) t`).Scan(&read); err != nil {
		t.Fatal(err)
	}
	if read > 50 {
		t.Errorf("%d rows were read to see whether a letter stands", read)
	}
}

// Many tasks that wait behind one letter hold up the lift of no other key.
func TestLiftsTakeTurns(t *testing.T) {
	r := newRig(t)
	r.letters(1, 1, func(t *schemas.Task) { t.Ordered = true })
	r.waiting("k", 2, 61)
	r.exec(`update perdure.dead_letters set block = true, state = 'resolved' where letter = 'main-1-1@0'`)
	r.exec(`delete from perdure.key_lifts`)
	r.exec(`insert into perdure.key_lifts (queue, key, wanted, stage, lift, task, at) values ('payments', 'k', false, 'answered', 1000, 'main-1-1', now() - interval '1 minute')`)
	r.waiting("other", 101, 101)
	r.exec(`insert into perdure.key_lifts (queue, key) values ('payments', 'other')`)
	l, err := NewLifts(LiftsConfig{Slice: 1}, LiftsDeps{DB: r.db})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.key_lifts where key = 'other' and stage = 'asked'`); n != 1 {
		t.Error("the other key's lift is not begun")
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state = 'held' and key = 'k'`); n == 0 || n == 60 {
		t.Errorf("%d of 60 are left after the first look", n)
	}
	for range 20 {
		if err := l.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.becomes(0, `select count(*) from perdure.dead_letters where state = 'held' and key = 'k'`)
	r.becomes(1, marks, "end 1000")
	if n := r.count(`select count(*) from (select epoch, task_id, lag(task_id) over (order by id) as before from perdure.outbox where key = 'k' and epoch = 1) o
where substr(before, 8)::int >= substr(task_id, 8)::int`); n != 0 {
		t.Errorf("%d tasks go in another order", n)
	}
}

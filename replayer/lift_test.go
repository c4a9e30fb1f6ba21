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

package dlq

// A letter that was replayed and is settled is an outcome of its replay, once.

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestSettledLettersAreOutcomesOfTheirReplay(t *testing.T) {
	r := newRig(t)
	r.start()
	topic := r.names.DLQ("payments")
	ids := []string{"main-1-1", "main-1-2", "main-1-3", "main-1-4", "main-1-5"}
	for _, id := range ids {
		r.produce(topic, Encode(letterOf(id, 0)))
	}
	r.eventually(5, `select count(*) from perdure.dead_letters`)
	if _, err := r.db.Exec(t.Context(), `with r as (insert into perdure.replays (replay, state, selector, who) values ('r-1', 'running', '{}', 't')),
d as (update perdure.dead_letters set state = 'replaying' where task_id <> 'main-1-4')
insert into perdure.replay_letters (replay, letter, n, result) select 'r-1', letter, right(task_id, 1)::int, case when task_id = 'main-1-4' then '' else 'replayed' end from perdure.dead_letters`); err != nil {
		t.Fatal(err)
	}
	other := letterOf("main-1-3", 1)
	other.Message = "something else altogether"
	again := []*kgo.Record{Resolved("main-1-1", "main-1-1", 1, time.Now()), Encode(letterOf("main-1-2", 1)), Encode(other), Resolved("main-1-4", "main-1-4", 0, time.Now()),
		Cancelled("main-1-5", "main-1-5", 1, time.Now())}
	r.produce(topic, again...)
	r.eventually(4, `select count(*) from perdure.replay_outcomes`)
	for n, want := range map[int]string{1: "completed false", 2: "died_again true", 3: "died_again false", 5: "cancelled false"} {
		var got string
		if err := r.db.QueryRow(t.Context(), `select outcome || ' ' || same from perdure.replay_outcomes where n = $1`, n).Scan(&got); err != nil || got != want {
			t.Errorf("letter %d: %q %v, want %q", n, got, err, want)
		}
	}
	if n := r.count(`select count(*) from perdure.replay_outcomes o join perdure.dead_letters d on d.epoch = 1 and d.fingerprint = o.fingerprint`); n != 2 {
		t.Errorf("%d outcomes name the new cause, want 2", n)
	}
	// Counted and read again: no second outcome.
	if _, err := r.db.Exec(t.Context(), `with q as (delete from perdure.replay_outcomes returning n, outcome)
update perdure.replay_letters l set outcome = q.outcome from q where l.n = q.n`); err != nil {
		t.Fatal(err)
	}
	again = append(again[:5:5], Resolved("main-1-9", "main-1-9", 0, time.Now()))
	r.produce(topic, again...)
	r.eventually(1, `select count(*) from perdure.resolutions where task_id = 'main-1-9'`)
	if n := r.count(`select count(*) from perdure.replay_outcomes`); n != 0 {
		t.Errorf("%d outcomes a second time", n)
	}
	// Done is absorbing: an abandoned handler may succeed after the cancel.
	r.produce(topic, Resolved("main-1-5", "main-1-5", 1, time.Now()), Cancelled("main-1-1", "main-1-1", 1, time.Now()))
	r.eventually(1, `select count(*) from perdure.dead_letters where task_id = 'main-1-5' and resolved_by = 'completed'`)
	if n := r.count(`select count(*) from perdure.resolutions where outcome <> 'completed'`); n != 0 {
		t.Errorf("%d tasks that completed are cancelled", n)
	}
}

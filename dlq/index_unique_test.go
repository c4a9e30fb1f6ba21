package dlq

// The index reads that tasks have ended, and gives their unique keys back.

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

// hold lets a task hold a key until it is completed, and another for a period.
func (r *rig) hold(key string, seq int64) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), `insert into perdure.unique_keys (scope, key, seq, generation, hash, expires) values
  ('unique', $1, $2, 1, '', 'infinity'), ('idempotent', $1, $2, 1, '', now() + interval '1 hour')
on conflict (scope, key) do update set seq = excluded.seq`, key, seq); err != nil {
		r.t.Fatal(err)
	}
}

const heldKeys = `select count(*) from perdure.unique_keys where scope = 'unique'`

func endOf(taskID string) *kgo.Record {
	return EncodeEvent(&Event{TaskID: taskID, Attempt: 1, Run: 1, Type: EventReleased, At: time.Now()})
}

func TestTheEndOfATaskGivesItsUniqueKeyBack(t *testing.T) {
	r := newRig(t)
	for seq := range int64(6) {
		r.hold(fmt.Sprint("k", seq+1), seq+1)
	}
	stop := r.start()
	// 1 ended; 2 was dead and is completed; 3 died, 4 was cancelled says an event for
	// people, 5 is another source's and another generation's: they hold theirs.
	r.produce(r.names.Events("payments"), endOf("main-1-1"), endOf("other-1-5"), endOf("main-2-5"),
		EncodeEvent(&Event{TaskID: "main-1-4", Attempt: 1, Type: EventCancelled, At: time.Now()}), endOf("main-1-77"))
	r.produce(r.names.DLQ("payments"), Encode(letterOf("main-1-2", 0)), Resolved("main-1-2", "main-1-2", 1, time.Now()), Encode(letterOf("main-1-3", 0)))
	r.eventually(4, heldKeys)
	r.eventually(1, `select count(*) from perdure.events`) // of the end no row is made
	if n := r.count(`select count(*) from perdure.unique_keys where scope = 'unique' and key in ('k1', 'k2')`); n != 0 {
		t.Errorf("%d of the two that ended hold their keys", n)
	}
	if n := r.count(`select count(*) from perdure.unique_keys where scope = 'idempotent'`); n != 6 {
		t.Errorf("%d idempotency keys are left, want 6", n)
	}

	// The keys have new holders. The index is killed before it commits what it read,
	// and reads everything again: late, twice, and it frees nothing.
	r.hold("k1", 11)
	r.hold("k2", 12)
	stop()
	adm := kadm.NewClient(r.cl)
	testkit.Eventually(t, 20*time.Second, func() (bool, string) {
		_, err := adm.DeleteGroup(t.Context(), r.names.IndexGroup("main"))
		return err == nil, fmt.Sprint(err)
	})
	r.start()
	r.produce(r.names.Events("payments"), endOf("main-1-1"), endOf("main-1-6"))
	r.eventually(5, heldKeys)
	if n := r.count(`select count(*) from perdure.unique_keys where scope = 'unique' and key in ('k1', 'k2', 'k3', 'k4', 'k5')`); n != 5 {
		t.Errorf("%d of five keys are held", n)
	}
}

// Postgres is away when the end is read: it is not lost.
func TestAnEndIsReadAgainWhereItsKeyCouldNotBeGivenBack(t *testing.T) {
	r := newRig(t)
	r.hold("k", 1)
	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) //nolint:errcheck // rolled back below
	if _, err := tx.Exec(t.Context(), `lock table perdure.unique_keys in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	stop := r.start()
	r.produce(r.names.Events("payments"), endOf("main-1-1"))
	waiting := `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
	r.eventually(1, waiting)
	stop() // it has not stored the batch, so it commits nothing
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(heldKeys); n != 1 {
		t.Fatalf("%d keys are held, want 1", n)
	}
	r.start()
	r.eventually(0, heldKeys)
}

// What a person discards has ended; what is held, or only claims to be a task's, has not.
func TestADiscardedLetterGivesItsTasksUniqueKeyBack(t *testing.T) {
	r := newRig(t)
	r.start()
	for seq := range int64(4) {
		r.hold(fmt.Sprint("k", seq+1), seq+1)
	}
	r.produce(r.names.DLQ("payments"), Encode(letterOf("main-1-1", 0)), Encode(letterOf("main-1-2", 0)), Encode(letterOf("main-1-3", 0)))
	r.eventually(3, `select count(*) from perdure.dead_letters`)
	if _, err := r.db.Exec(t.Context(), `update perdure.dead_letters set reason = 'undecodable' where letter = 'main-1-2@0'`); err != nil {
		t.Fatal(err)
	}
	letters := NewLetters(r.db)
	decide := func(d Decision, want, held int, ids ...string) {
		t.Helper()
		if n, err := letters.Decide(t.Context(), d, &LetterSelector{IDs: ids}, "tester", "", 10); err != nil || n != want {
			t.Fatalf("%s: %d letters, %v; want %d", d.name, n, err, want)
		}
		if n := r.count(heldKeys); n != held {
			t.Errorf("%s: %d keys are held, want %d", d.name, n, held)
		}
	}
	decide(Hold, 3, 4, "main-1-1", "main-1-2", "main-1-3")
	decide(Release, 1, 4, "main-1-3")
	decide(Discard, 2, 3, "main-1-1", "main-1-2")
	if n := r.count(`select count(*) from perdure.unique_keys where scope = 'unique' and seq = 1`); n != 0 {
		t.Error("the discarded task holds its key")
	}
}

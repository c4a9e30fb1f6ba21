package dlq

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// A resolution of a task whose record could not be read again lies in another
// partition than its letter, and comes with it: the letter is resolved.
func TestALetterIsSettledWhateverPartitionItsResolutionIsIn(t *testing.T) {
	r, x := storeRig(t)
	topic := r.deps.Names.DLQ("payments")
	const n = 60
	for i := range n {
		id := fmt.Sprintf("main-1-%d", i+1)
		l := Encode(letterOf(id, 0))
		l.Topic, l.Partition, l.Offset = topic, 0, int64(i)
		d := Resolved(id, id, 1, time.Now())
		d.Topic, d.Partition, d.Offset = topic, 1, int64(i)
		if !x.storeBeside(t.Context(), kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: topic, Partitions: []kgo.FetchPartition{
			{Partition: 0, Records: []*kgo.Record{l}}, {Partition: 1, Records: []*kgo.Record{d}}}}}}}) {
			t.Fatal("not stored")
		}
	}
	if n := r.count(`select count(*) from perdure.dead_letters where state <> 'resolved'`); n != 0 {
		t.Errorf("%d letters of completed tasks are not resolved", n)
	}
}

// What Go takes for JSON, and jsonb does not, is no reason to lose whose letter it is.
func TestAHistoryThatPostgresRefusesLeavesTheLetter(t *testing.T) {
	r, x := storeRig(t)
	for i, history := range []string{`[{"n":1,"message":"bad \ud800 text"}]`, `[{"n":1,"message":"m","more":1e999999}]`} {
		l := Encode(letterOf(fmt.Sprintf("main-1-%d", i+1), 0))
		l.Topic, l.Offset = r.deps.Names.DLQ("payments"), int64(i)
		for h := range l.Headers {
			if l.Headers[h].Key == schemas.HeaderAttempts {
				l.Headers[h].Value = []byte(history)
			}
		}
		if !x.storeAll(t.Context(), []*kgo.Record{l}) {
			t.Fatal("not stored")
		}
	}
	if n := r.count(`select count(*) from perdure.dead_letters where letter in ('main-1-1@0', 'main-1-2@0') and attempts->0->>'n' = '1'`); n != 2 {
		t.Errorf("%d letters, want 2", n)
	}
}

func TestAnExportHasItsLettersAlsoWhileTheirGroupIsMerged(t *testing.T) {
	r, _ := storeRig(t)
	s := NewLetters(r.db)
	var rows []deadRow
	for i := range 100 {
		rows = append(rows, deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: "k", queue: "payments", reason: "expired", state: "open", group: "fp1:a", died: time.Unix(1e9+int64(i), 0)})
	}
	for i := range 6000 {
		rows = append(rows, deadRow{letter: fmt.Sprintf("main-2-%d@0", i), kind: "k", queue: "payments", reason: "permanent", state: "open", group: "fp1:b", died: time.Unix(2e9+int64(i), 0)})
	}
	r.deadRows(rows)
	got := 0
	if err := s.Each(t.Context(), Filter{Reason: "expired"}, func(*Entry) error {
		if got++; got == 1 {
			_, err := s.Merge(t.Context(), "fp1:a", "fp1:b", "ann", "one cause")
			return err
		}
		return nil
	}); err != nil || got != 100 {
		t.Errorf("%d of 100 letters, %v", got, err)
	}
}

// Logical replication of the whole database, as an upgrade of Postgres wants it.
func TestCountsAreAddedUpUnderAPublicationOfAllTables(t *testing.T) {
	r, x := storeRig(t)
	if _, err := r.db.Exec(t.Context(), `create publication everything for all tables`); err != nil {
		t.Fatal(err)
	}
	r.file(x, 1, 3, "urn:a", "one")
	if err := foldGroups(t.Context(), r.db); err != nil {
		t.Fatal(err)
	}
}

// Letters that were written around the triggers, as a restore may.
func TestGroupsCanBeCountedAnew(t *testing.T) {
	r, x := storeRig(t)
	r.file(x, 1, 3, "urn:a", "one")
	if _, err := r.db.Exec(t.Context(), `alter table perdure.letter_states disable trigger user; delete from perdure.dead_letters where letter = 'main-1-2@0'; alter table perdure.letter_states enable trigger user`); err != nil {
		t.Fatal(err)
	}
	if r.counted() == "" {
		t.Fatal("the counts are right although nobody told them")
	}
	reader, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(context.Background())
	if _, err := reader.Exec(t.Context(), `select * from perdure.groups_now`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `set lock_timeout = '20s'; select perdure.recount_groups(); reset lock_timeout`); err != nil {
		t.Fatal(err)
	}
	if wrong := r.counted(); wrong != "" {
		t.Error(wrong)
	}
}

// People decide of letters while the schema is brought forward, and back.
func TestGroupsBeginToBeCountedBesideDecisions(t *testing.T) {
	db := testkit.MigratedPostgres(t)
	ctx := t.Context()
	down := func() {
		t.Helper()
		for v := int64(48); v != 47; {
			down, err := pg.Down(ctx, db.URL)
			if v = int64(down); err != nil || v < 47 {
				t.Fatal(v, err)
			}
		}
	}
	down()
	pool, err := pg.Pool(ctx, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `insert into perdure.dead_letters (letter, task_id, kind, queue, reason, fingerprint, origin_topic, origin_partition, origin_offset, dlq_topic, dlq_partition, dlq_offset, died_at)
select 'main-1-' || i || '@0', 'main-1-' || i, 'k', 'payments', 'permanent', 'fp1:' || i % 100, 't', 0, i, 'd', 0, i, now() - i * interval '1 second' from generate_series(1, 100000) i`); err != nil {
		t.Fatal(err)
	}
	// As Decide of the version of then did it.
	const decide = `
with l as materialized (select letter from perdure.dead_letters where letter = 'main-1-7@0' and state <> $1 for update),
u as (update perdure.dead_letters d set state = $1, changed_at = clock_timestamp() from l where d.letter = l.letter returning d.letter)
insert into perdure.audit (who, what, letter, why) select 'ann', 'letter.' || $1, letter, 'look' from u`
	stop, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		for n := 0; stop.Err() == nil; n++ {
			if _, err := pool.Exec(stop, decide, []string{"held", "open"}[n%2]); err != nil && stop.Err() == nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 2 {
		if err := pg.Migrate(ctx, db.URL, testkit.MigratedSource); err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, db: pool}
		if wrong := r.counted(); wrong != "" {
			t.Error(wrong)
		}
		down()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// One partition keeps all writers busy, and the letters of a key have one of them.
func TestOnePartitionIsSharedAmongTheWriters(t *testing.T) {
	r, x := storeRig(t)
	topic := r.deps.Names.DLQ("payments")
	var records []*kgo.Record
	for i := range 200 {
		l := Encode(letterOf(fmt.Sprintf("main-1-%d", i+1), 0))
		l.Topic, l.Offset, l.Key = topic, int64(i), fmt.Append(nil, "key", i%21)
		records = append(records, l)
	}
	if !x.storeBeside(t.Context(), kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: topic, Partitions: []kgo.FetchPartition{{Records: records}}}}}}) {
		t.Fatal("not stored")
	}
	if n := r.count(`select count(distinct xmin::text) from perdure.letters`); n != writers {
		t.Errorf("200 letters of one partition were written by %d transactions, want %d", n, writers)
	}
	if n := r.count(`select count(*) from (select from perdure.letters group by record_key having count(distinct xmin::text) > 1) k`); n != 0 {
		t.Errorf("%d keys had two writers", n)
	}
}

package dlq

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// What was decided of a letter is what it comes back as, although its row is gone;
// one that is still there is left as it is.
func TestARestoredLetterIsWhatTheAuditSays(t *testing.T) {
	r := newRig(t)
	topic := r.names.DLQ("payments")
	var recs []*kgo.Record
	for n := 1; n <= 10; n++ {
		recs = append(recs, Encode(letterOf(fmt.Sprintf("main-1-%d", n), 0)))
	}
	for n := 11; n <= 13; n++ { // they wait behind another of their key
		l := letterOf(fmt.Sprintf("main-1-%d", n), 0)
		l.Reason = schemas.ReasonBlocked
		recs = append(recs, Encode(l))
	}
	answer, err := EncodeAnswer(&Answer{TaskID: "main-1-1", Lift: 7, Key: "answered"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	recs = append(recs, answer, Encode(letterOf("main-1-8", 1)), Resolved("main-1-9", "main-1-9", 1, time.Now()))
	stop := r.start()
	r.produce(topic, recs...)
	r.eventually(14, `select count(*) from perdure.dead_letters`)
	r.eventually(1, `select count(*) from perdure.resolutions`)
	// A lift that nobody knows any more was answered: it got its end. Its number is
	// that of another one now, as after a restored backup.
	const ends = `select count(*) from perdure.outbox where kind = 'perdure.line' and key = 'answered'`
	r.eventually(1, ends)
	if _, err := r.db.Exec(t.Context(), `insert into perdure.key_lifts (queue, key, wanted, stage, lift) values ('payments', 'answered', false, 'asked', 7)`); err != nil {
		t.Fatal(err)
	}
	letters := NewLetters(r.db)
	decide := func(d Decision, ids ...string) {
		t.Helper()
		if n, err := letters.Decide(t.Context(), d, &LetterSelector{IDs: ids}, "ann", "why", 10); err != nil || n != len(ids) {
			t.Fatalf("%s: %d, %v", d.name, n, err)
		}
	}
	decide(Discard, "main-1-1@0", "main-1-10@0", "main-1-11@0")
	if n, err := letters.Decide(t.Context(), Release, &LetterSelector{Reason: "blocked"}, "ann", "why", 10); err != nil || n != 0 {
		t.Errorf("%d letters that wait for a lift were released, %v", n, err)
	}
	decide(Hold, "main-1-2@0", "main-1-3@0", "main-1-4@0")
	decide(Release, "main-1-3@0")
	decide(Discard, "main-1-4@0")
	// As the replayer writes it: 5 is being replayed, 6 was held for its replays, 8 died
	// again, 7 was found completed.
	if _, err := r.db.Exec(t.Context(), `
insert into perdure.audit (who, what, details) values ('ann', 'letters.replay', '{"letters":{"main-1-5@0":1,"main-1-6@0":2,"main-1-8@0":3,"main-1-9@0":4}}'),
  ('ann', 'letters.hold', '{"letters":["main-1-6@0"]}'), ('perdure', 'letters.release', '{"letters":["main-1-12@0"]}');
insert into perdure.audit (who, what, letter) values ('ann', 'letter.resolve', 'main-1-7@0');
update perdure.dead_letters set replays = 1 where letter in ('main-1-5@0', 'main-1-6@0', 'main-1-8@0', 'main-1-9@0');
update perdure.dead_letters set state = 'replaying' where letter = 'main-1-5@0';
update perdure.dead_letters set state = 'held' where letter = 'main-1-6@0';
update perdure.dead_letters set state = 'resolved', resolved_by = 'completed' where letter = 'main-1-7@0';
delete from perdure.dead_letters where letter <> 'main-1-10@0'`); err != nil {
		t.Fatal(err)
	}
	// No row of the audit knows this: it must stay all the same.
	if _, err := r.db.Exec(t.Context(), `update perdure.dead_letters set state = 'open', resolved_by = '', message = 'as it was left' where letter = 'main-1-10@0'`); err != nil {
		t.Fatal(err)
	}
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // beside a running index, and again
		if _, err := x.Reindex(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	var got []string
	rows, err := r.db.Query(t.Context(), `select letter || ' ' || state || ' ' || resolved_by || ' ' || replays || case when message = 'as it was left' then ' left' else '' end
from perdure.dead_letters order by length(letter), letter`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	const want = `main-1-1@0 discarded discard 0
main-1-2@0 held  0
main-1-3@0 open  0
main-1-4@0 discarded discard 0
main-1-5@0 replaying  1
main-1-6@0 held  1
main-1-7@0 resolved completed 0
main-1-8@0 resolved replay 1
main-1-8@1 open  0
main-1-9@0 resolved completed 1
main-1-10@0 open  0 left
main-1-11@0 discarded discard 0
main-1-12@0 replaying  1
main-1-13@0 held  0`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("restored as\n%s\nwant\n%s", s, want)
	}
	r.eventually(1, ends)
	r.eventually(1, `select count(*) from perdure.key_lifts where key = 'answered' and stage = 'asked'`)
}

// What it knew is gone with its session: it must end, not wait for what cannot come.
func TestARestoreThatLosesItsSessionSaysSo(t *testing.T) {
	r := newRig(t)
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	y, ctx, end, err := x.deciding(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if _, err := r.db.Exec(t.Context(), `select pg_terminate_backend($1)`, int32(y.session.conn.Conn().PgConn().PID())); err != nil {
		t.Fatal(err)
	}
	var done Reindexed
	rec := Encode(letterOf("main-1-1", 0))
	rec.Topic = r.names.DLQ("payments")
	if err := y.restore(ctx, []*kgo.Record{rec}, &done); err == nil || !strings.Contains(err.Error(), "begin again") {
		t.Errorf("%v", err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters`); n != 0 {
		t.Errorf("%d letters were written without what was decided of them", n)
	}
}

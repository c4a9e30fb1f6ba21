package dlq

// The index again from Kafka, after all its rows are gone.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// What Kafka does not tell: when a row was written, and what people did.
const rebuilt = `select letter, to_jsonb(d) - array['indexed_at', 'changed_at', 'replays'] from perdure.dead_letters d`

func (r *rig) index() map[string]map[string]any {
	r.t.Helper()
	rows, err := r.db.Query(r.t.Context(), rebuilt)
	if err != nil {
		r.t.Fatal(err)
	}
	all := map[string]map[string]any{}
	var letter string
	var columns map[string]any
	if _, err := pgx.ForEachRow(rows, []any{&letter, &columns}, func() error {
		all[letter], columns = columns, nil
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return all
}

func TestIndexRebuiltFromKafkaIsTheSame(t *testing.T) {
	r := newRig(t)
	topic := r.names.DLQ("payments")
	var recs []*kgo.Record
	messages := []string{"refused 17", "timeout after 3 s at 10.0.0.7:5432", `no "account" for ü`}
	for n := range 150 {
		id := fmt.Sprintf("main-1-%d", n+1)
		last := rand.IntN(3)
		for epoch := range last + 1 {
			l := letterOf(id, epoch)
			l.Message, l.Release, l.Run = messages[rand.IntN(3)], fmt.Sprint("r", n%4), int64(n)
			l.DiedAt = time.Now().Add(-time.Duration(rand.IntN(1e6)) * time.Millisecond)
			l.Origin.Partition = int32(n % 3)
			l.Catalog, l.ErrorClass, l.Block = fmt.Sprint("c", n%3), fmt.Sprint("HTTP 50", n%5), n%13 == 0
			l.Headers = append(l.Headers, kgo.RecordHeader{Key: schemas.HeaderExpiry, Value: []byte(time.Unix(2e9+int64(n), 0).UTC().Format(time.RFC3339))},
				kgo.RecordHeader{Key: schemas.HeaderPartitionKey, Value: fmt.Append(nil, "key ", n%9)}, kgo.RecordHeader{Key: "content-type", Value: []byte("text/plain")})
			switch {
			case n%7 == 0:
				l.Value = []byte{0, 1, 0xff} // no text
			case n == 1:
				l.Value = make([]byte, 2*MaxRecord) // is cut
			case n%17 == 0:
				l.Reason, l.BlockedBy = schemas.ReasonBlocked, "main-1-9@0" // waits for another, held
			}
			if n%11 == 0 {
				l.Reason, l.Attempts = schemas.ReasonExhausted, []Attempt{{N: 1, Message: "a"}, {N: 2, Message: "b", Stack: "main.go:17\nx.go:3"}}
			}
			recs = append(recs, Encode(l))
		}
		switch {
		case n%6 == 0:
			recs = append(recs, Cancelled(id, id, last+1, time.Now()))
		case n%3 == 0:
			recs = append(recs, Resolved(id, id, last+1, time.Now()))
		}
	}
	repeatedResolutions := 0
	for _, rec := range recs[:20] { // the same deaths, produced again
		again := *rec
		if _, res, err := Decode(rec); err == nil && res != nil {
			repeatedResolutions++
		}
		recs = append(recs, &again)
	}
	for i := range 5 {
		recs = append(recs, &kgo.Record{Key: []byte("k"), Value: fmt.Append(nil, "garbage ", i)})
	}
	letters := map[string]bool{}
	for _, rec := range recs {
		if l, _, err := Decode(rec); err == nil && l != nil {
			letters[l.ID()] = true
		}
	}
	stop := r.start()
	r.produce(topic, recs...)
	r.eventually(len(letters)+5, `select count(*) from perdure.dead_letters`)
	r.eventually(50, `select count(*) from perdure.resolutions`)
	stop()
	before := r.index()

	var read, total int64
	x, err := NewIndex(Config{Who: "ann", Progress: func(n, of int64) { read, total = n, of }}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.db.Exec(t.Context(), `delete from perdure.dead_letters where letter <> 'main-1-1@0'; delete from perdure.resolutions`); err != nil {
		t.Fatal(err)
	}
	done, err := x.Reindex(t.Context())
	want := Reindexed{Topics: 1, Records: int64(len(recs)), Letters: int64(len(recs) - repeatedResolutions - 50), Resolutions: int64(50 + repeatedResolutions), Restored: int64(len(letters) + 4)}
	if err != nil || done != want {
		t.Errorf("%+v %v, want %+v", done, err, want)
	}
	if again, err := x.Reindex(t.Context()); err != nil || again.Restored != 0 || again.Records != done.Records {
		t.Errorf("again: %+v %v", again, err)
	}
	if n := r.count(`select count(*) from perdure.audit where what = 'dlq.reindex' and who = 'ann' and details->>'letters' = $1`, fmt.Sprint(done.Letters)); n != 2 {
		t.Errorf("%d audit rows of two reindexes", n)
	}
	if read != int64(len(recs)) || total != read {
		t.Errorf("progress: %d of %d, want %d", read, total, len(recs))
	}
	states := map[any]int{}
	after := r.index()
	if len(after) != len(before) {
		t.Errorf("%d letters, were %d", len(after), len(before))
	}
	values := map[string]map[string]bool{} // of each column
	for id, was := range before {
		states[was["state"]]++
		for column, value := range was {
			if values[column] == nil {
				values[column] = map[string]bool{}
			}
			values[column][fmt.Sprint(value)] = true
			if now := after[id][column]; !reflect.DeepEqual(now, value) {
				t.Errorf("%s: %s is %v, was %v", id, column, now, value)
			}
		}
	}
	if states["open"] < 50 || states["resolved"] < 50 || states["held"] == 0 {
		t.Errorf("nothing to tell apart: %v", states)
	}
	for column, of := range values { // a column that is always the same would prove nothing
		if len(of) < 2 && !slices.Contains([]string{"dlq_topic", "joined_from", "queue", "released"}, column) {
			t.Errorf("column %s is always %v", column, of)
		}
	}
}

// A topic whose last offset holds no letter (a transaction's end), or none any more,
// is read to its end all the same.
func TestReindexEndsAtAnEndWithoutALetter(t *testing.T) {
	r := newRig(t)
	topic := r.names.DLQ("payments")
	tx, err := kgo.NewClient(append(r.deps.Kafka, kgo.TransactionalID(r.names.Prefix+"tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	rec := Encode(letterOf("main-1-1", 0))
	rec.Topic, rec.Partition = topic, 0
	if err := tx.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := tx.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, func() (bool, string) { // the marker is written after the answer
		ends, err := kadm.NewClient(tx).ListCommittedOffsets(t.Context(), topic)
		o, _ := ends.Lookup(topic, 0)
		return err == nil && o.Offset == 2, fmt.Sprintf("the partition ends at %d, want 2: %v", o.Offset, err)
	})
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if done, err := x.Reindex(ctx); err != nil || done.Letters != 1 || done.Records != 1 {
		t.Errorf("%+v %v", done, err)
	}
}

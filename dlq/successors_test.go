package dlq

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// store files letters as a batch.
func (d *desk) store(x *Index, letters ...*Letter) {
	d.t.Helper()
	var records []*kgo.Record
	for i, l := range letters {
		r := Encode(l)
		r.Topic, r.Offset = x.deps.Names.DLQ("payments"), int64(i)
		records = append(records, r)
	}
	if err := x.store(d.t.Context(), x.rows(records)); err != nil {
		d.t.Fatal(err)
	}
}

// groupOf is where a letter was filed.
func (d *desk) groupOf(letter string) (group string) {
	d.t.Helper()
	if err := d.db.QueryRow(d.t.Context(), `select fingerprint from perdure.dead_letters where letter = $1`, letter).Scan(&group); err != nil {
		d.t.Fatal(err)
	}
	return group
}

// A group by the algorithm before goes on: its letters to come are its own, with what
// people said of it and what they merged. A cause without one gets the present name.
func TestAGroupOutlivesItsAlgorithm(t *testing.T) {
	d := newDesk(t)
	x, err := NewIndex(Config{}, Deps{DB: d.db, Catalog: testCatalog()})
	if err != nil {
		t.Fatal(err)
	}
	made := func(id, message string) *Letter {
		l := letterOf(id, 0)
		l.Message, l.Attempts = message, nil
		return l
	}
	old := func(id, message string) *Letter { // by a worker of the older version
		l := made(id, message)
		l.Fingerprint = firstFingerprint(l.Kind, l.ErrorClass, l.Message, "")
		return l
	}
	d.store(x, old("main-1-1", `{"error":"card_declined","id":1}`))
	declined := d.groupOf("main-1-1@0")
	d.say(declined, `{"state":"muted","owner":"ann","note":"the bank knows"}`)
	d.store(x, made("main-1-2", `{"error":"card_declined","id":2}`), made("main-1-3", "shard 7 is away"))
	if got := d.groupOf("main-1-2@0"); got != declined {
		t.Errorf("filed in %s, want %s, which is muted", got, declined)
	}
	if got := d.groupOf("main-1-3@0"); got[:4] != fingerprintVersion {
		t.Errorf("a new cause has the name %s", got)
	}
	if c := d.care(declined); c.State != "muted" || c.Owner != "ann" || c.Note != "the bank knows" {
		t.Errorf("%+v", c)
	}
	// In one batch, and in a group that was merged into another.
	d.store(x, made("main-1-5", "disk 3 is full"), old("main-1-4", "disk 9 is full"))
	if a, b := d.groupOf("main-1-4@0"), d.groupOf("main-1-5@0"); a != b {
		t.Errorf("two workers, one cause: %s and %s", a, b)
	}
	if _, err := NewLetters(d.db).Merge(t.Context(), d.groupOf("main-1-4@0"), declined, "ann", "one disk"); err != nil {
		t.Fatal(err)
	}
	d.store(x, made("main-1-6", "disk 4 is full"))
	if got := d.groupOf("main-1-6@0"); got != declined {
		t.Errorf("filed in %s, want what its group was merged into", got)
	}
	// A new worker was first, and people spoke of its group before an old worker's letter came.
	d.store(x, made("main-1-8", "stock 8 is empty"))
	empty := d.groupOf("main-1-8@0")
	d.say(empty, `{"state":"muted"}`)
	d.store(x, old("main-1-9", "stock 9 is empty"))
	d.store(x, made("main-1-10", "stock 10 is empty"))
	if a, b := d.groupOf("main-1-9@0"), d.groupOf("main-1-10@0"); a == empty || b != empty {
		t.Errorf("an old worker's letter is in %s, the next in %s; want the next in %s, which is muted", a, b, empty)
	}
	// All letters are pruned: what people said still stands.
	if _, err := d.db.Exec(t.Context(), `delete from perdure.dead_letters`); err != nil {
		t.Fatal(err)
	}
	d.store(x, made("main-1-7", `{"error":"card_declined","id":7}`))
	if got := d.groupOf("main-1-7@0"); got != declined {
		t.Errorf("filed in %s, want %s, of which somebody is the owner", got, declined)
	}
}

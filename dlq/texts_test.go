package dlq

// Letters by the text of their error, and what of it is remembered of a cause.

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// storeRig is a rig without Kafka: letters are stored as an index stores them.
func storeRig(t *testing.T) (*rig, *Index) {
	t.Helper()
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	r := &rig{t: t, db: db}
	r.deps = Deps{DB: db, Catalog: testCatalog(), Log: testkit.Logger(t)}
	x, err := NewIndex(Config{}, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	return r, x
}

// file stores letters of the last digits from…to, all of one class and message.
func (r *rig) file(x *Index, from, to int, class, message string) (group string) {
	r.t.Helper()
	b := &batch{}
	for n := from; n <= to; n++ {
		l := letterOf(fmt.Sprintf("main-1-%d", n), 0)
		l.ErrorClass, l.Message, l.DiedAt = class, message, time.Unix(1e9+int64(n), 0)
		rec := Encode(l)
		rec.Topic = "dlq.payments"
		d, _, err := Decode(rec)
		if err != nil {
			r.t.Fatal(err)
		}
		group = d.Fingerprint
		b.letters = append(b.letters, row(d, "payments", &kgo.Record{Topic: "dlq.payments", Offset: int64(n)}))
	}
	if err := x.store(r.t.Context(), b); err != nil {
		r.t.Fatal(err)
	}
	return group
}

func TestLettersAreFoundByTheTextOfTheirError(t *testing.T) {
	r, x := storeRig(t)
	r.file(x, 1, 1, "HTTP 503", "shard 17 is read-only until 04:12")
	r.file(x, 2, 3, "HTTP 503", `shard 3 is read_only, 100% of "accounts"`)
	r.file(x, 4, 4, "net.OpError", "dial tcp 10.0.0.7:5432: connection refused")
	a := lettersAPI(t, r.db)
	for text, want := range map[string]string{
		"shard+99+is+read-only":      "1",
		"SHARD":                      "123",
		"http+503":                   "123",
		"refused":                    "4",
		"tcp+192.168.0.1:1:+connect": "4",
		"read_only":                  "23", // _ is no wildcard
		"read%25only":                "",   // nor is %
		"nothing+of+the+kind":        "",
		"refused&state=held":         "",
		"refused&kind=refund.issue":  "4",
	} {
		if got := shown(t, get(a, "/v1/dead-letters?text="+text), "letter"); got != want {
			t.Errorf("letters of %q: %q, want %q", text, got, want)
		}
	}
	if got := len(shown(t, get(a, "/v1/failure-groups?text=shard"), "group")); got != 2 {
		t.Errorf("%d groups say shard, want 2", got)
	}
	if w := get(a, "/v1/dead-letters?text=x"); w.Code != 422 {
		t.Errorf("a text of one letter: %d", w.Code)
	}
	// Page by page, over groups.
	var all string
	for cursor := ""; ; {
		list, next, err := NewLetters(r.db).List(t.Context(), Filter{Text: "shard"}, cursor, 1)
		if err != nil {
			t.Fatal(err)
		}
		all += list[0].TaskID[len(list[0].TaskID)-1:]
		if cursor = next; next == "" {
			break
		}
	}
	if all != "321" {
		t.Errorf("page by page: %s, want 321", all)
	}
}

// A text that many causes have is refused, and says so, before it is slow.
func TestATextOfTooManyCausesIsRefused(t *testing.T) {
	r, _ := storeRig(t)
	if _, err := r.db.Exec(t.Context(), `insert into perdure.group_texts select 'fp1:' || i, 'timeout of ' || i from generate_series(0, $1::int) i`, maxTextGroups); err != nil {
		t.Fatal(err)
	}
	a := lettersAPI(t, r.db)
	for path, want := range map[string]int{"/v1/dead-letters?text=timeout": 422, "/v1/failure-groups?text=timeout": 422, "/v1/dead-letters?text=nothing": 200} {
		if w := get(a, path); w.Code != want {
			t.Errorf("%s: %d, want %d: %s", path, w.Code, want, w.Body)
		}
	}
}

// Causes that an older version filed are searchable after a start.
func TestOldCausesAreToldTheirTexts(t *testing.T) {
	r, x := storeRig(t)
	for n := range 5 {
		r.file(x, n+1, n+1, fmt.Sprint("urn:cause:", string(rune('a'+n))), "broken")
	}
	if _, err := r.db.Exec(t.Context(), `delete from perdure.group_texts`); err != nil {
		t.Fatal(err)
	}
	if err := x.tellTexts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, get(lettersAPI(t, r.db), "/v1/dead-letters?text=cause:c"), "letter"); got != "3" {
		t.Errorf("found %q, want 3", got)
	}
	if n := r.count(`select count(*) from perdure.group_texts`); n != 5 {
		t.Errorf("%d texts, want 5", n)
	}
}

// A handler that names its cause may say a new text each time: of one cause so
// many are kept, and letters are filed all the same.
func TestTextsOfOneCauseAreBounded(t *testing.T) {
	r, x := storeRig(t)
	var many []groupText
	for n := range 3 * maxTexts {
		many = append(many, groupText{"fpn1:a", fmt.Sprint("text ", n)})
	}
	for at := range many { // one batch each
		if err := writeTexts(t.Context(), x.deps.DB, many[at:at+1]); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.count(`select count(*) from perdure.group_texts`); n != maxTexts {
		t.Errorf("%d texts, want %d", n, maxTexts)
	}
}

// Causes that people joined are one group; that must not hide that there are more
// than were read.
func TestATextOfTooManyJoinedCausesIsRefused(t *testing.T) {
	r, x := storeRig(t)
	r.file(x, 1, 1, "urn:zzz", "timeout of zzz")
	for _, sql := range []string{
		`insert into perdure.group_texts select 'a' || i, 'timeout of ' || i from generate_series(0, $1::int) i`,
		`insert into perdure.group_aliases (fingerprint, into_group, who, settled) select 'a' || i, 'root', 'ann', true from generate_series(0, $1::int) i`,
	} {
		if _, err := r.db.Exec(t.Context(), sql, maxTextGroups+50); err != nil {
			t.Fatal(err)
		}
	}
	if w := get(lettersAPI(t, r.db), "/v1/dead-letters?text=timeout"); w.Code != 422 && shown(t, w, "letter") != "1" {
		t.Errorf("%d, and the letter is not there: %s", w.Code, w.Body)
	}
}

// Also if they come together.
func TestTextsOfOneCauseInOneBatchAreBounded(t *testing.T) {
	r, x := storeRig(t)
	var many []groupText
	for n := range 3 * maxTexts {
		many = append(many, groupText{"fpn1:a", fmt.Sprint("text ", n)}, groupText{fmt.Sprint("fp1:", n), "its own"})
	}
	if err := writeTexts(t.Context(), x.deps.DB, many); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.group_texts where fingerprint = 'fpn1:a'`); n != maxTexts {
		t.Errorf("%d texts, want %d", n, maxTexts)
	}
	if n := r.count(`select count(*) from perdure.group_texts`); n != 4*maxTexts {
		t.Errorf("%d texts of all, want %d", n, 4*maxTexts)
	}
}

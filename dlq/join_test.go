package dlq

// Groups that people join, with letters that come before, meanwhile and after.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/testkit"
)

func TestMergedGroupsTakeLettersToCome(t *testing.T) {
	r, x := storeRig(t)
	s := NewLetters(r.db)
	a := r.file(x, 1, 3, "urn:a", "one")
	b := r.file(x, 4, 5, "urn:b", "two")
	c := r.file(x, 6, 6, "urn:c", "three")
	owner, note := "ann", "is known"
	for _, g := range []string{a, b} {
		if err := s.Change(t.Context(), g, "ann", &CareChange{Owner: &owner, Note: &note}); err != nil {
			t.Fatal(err)
		}
		owner, note = "bob", "another"
	}
	sizes := func(want string) {
		t.Helper()
		list, err := s.Groups(t.Context(), Filter{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, g := range list {
			got[g.Group] = g.Letters
		}
		if s := fmt.Sprint(got[a], got[b], got[c]); s != want {
			t.Errorf("letters of the three groups: %s, want %s", s, want)
		}
	}
	must := func(n int64, err error) func(want int64) {
		t.Helper()
		return func(want int64) {
			t.Helper()
			if err != nil || n != want {
				t.Errorf("moved %d, want %d: %v", n, want, err)
			}
		}
	}
	must(s.Merge(t.Context(), a, b, "ann", "the same shard"))(3)
	sizes("0 5 1")
	r.file(x, 7, 8, "urn:a", "one") // to come
	sizes("0 7 1")
	if _, err := s.Merge(t.Context(), b, a, "ann", ""); !errors.Is(err, ErrRing) {
		t.Errorf("a ring: %v", err)
	}
	if _, err := s.Merge(t.Context(), a, c, "ann", ""); !errors.Is(err, ErrMerged) {
		t.Errorf("merged twice: %v", err)
	}
	if _, err := s.Merge(t.Context(), a, a, "ann", ""); !errors.Is(err, ErrMerged) && !errors.Is(err, ErrRing) {
		t.Errorf("into itself: %v", err)
	}
	must(s.Merge(t.Context(), b, c, "ann", ""))(7) // a chain
	sizes("0 0 8")
	if _, err := s.Merge(t.Context(), c, a, "ann", ""); !errors.Is(err, ErrRing) {
		t.Errorf("a ring of three: %v", err)
	}
	if g, err := s.Group(t.Context(), a); err != nil || g.Group != c || g.Care.Owner != "" {
		t.Errorf("the group by its old name: %+v %v", g, err)
	}
	must(s.Unmerge(t.Context(), b, "ann", "not so"))(7) // a comes with it
	sizes("0 7 1")
	if g, err := s.Group(t.Context(), b); err != nil || g.Care.Owner != "bob" || g.Care.Note != "another" {
		t.Errorf("what was said of the target: %+v %v", g, err)
	}
	must(s.Unmerge(t.Context(), a, "ann", ""))(5)
	sizes("5 2 1")
	if g, err := s.Group(t.Context(), a); err != nil || g.Care.Owner != "ann" {
		t.Errorf("what was said of it before: %+v %v", g, err)
	}
	r.file(x, 9, 9, "urn:a", "one")
	sizes("6 2 1")
	if _, err := s.Unmerge(t.Context(), a, "ann", ""); !errors.Is(err, ErrNotMerged) {
		t.Errorf("taken back twice: %v", err)
	}
	if n := r.count(`select count(*) from perdure.group_aliases`) + r.count(`select count(*) from perdure.dead_letters where joined_from is not null`); n != 0 {
		t.Errorf("%d traces of merges that were taken back", n)
	}
	if n := r.count(`select count(*) from perdure.audit where what in ('group.merge', 'group.unmerge') and who = 'ann'`); n != 4 {
		t.Errorf("%d rows in the audit, want 4", n)
	}
}

// An index that is made again files letters where people had put them.
func TestMergeSurvivesARebuiltIndex(t *testing.T) {
	r, x := storeRig(t)
	s := NewLetters(r.db)
	a, b := r.file(x, 1, 3, "urn:a", "one"), r.file(x, 4, 5, "urn:b", "two")
	if _, err := s.Merge(t.Context(), a, b, "ann", ""); err != nil {
		t.Fatal(err)
	}
	before := r.index()
	if _, err := r.db.Exec(t.Context(), `delete from perdure.dead_letters`); err != nil {
		t.Fatal(err)
	}
	r.file(x, 1, 3, "urn:a", "one")
	r.file(x, 4, 5, "urn:b", "two")
	after := r.index()
	for id, was := range before {
		if now := after[id]; fmt.Sprint(now) != fmt.Sprint(was) {
			t.Errorf("%s: %v, was %v", id, now, was)
		}
	}
	if n := r.count(`select count(*) from perdure.dead_letters where fingerprint = $1`, b); n != 5 {
		t.Errorf("%d letters are in the group, want 5", n)
	}
}

// Letters are filed while their group is merged and taken back, again and again:
// in the end none is anywhere else than where it belongs.
func TestLettersFiledDuringAMergeAreMovedToo(t *testing.T) {
	r, x := storeRig(t)
	s := NewLetters(r.db)
	a, b := r.file(x, 1, 1, "urn:a", "one"), r.file(x, 2, 2, "urn:b", "two")
	var filing sync.WaitGroup
	for w := range 3 {
		filing.Go(func() {
			y, err := NewIndex(Config{}, r.deps)
			if err != nil {
				t.Error(err)
				return
			}
			for n := range 60 {
				r.file(y, 100*(w+1)+n, 100*(w+1)+n, "urn:a", "one")
			}
		})
	}
	for range 4 {
		if _, err := s.Merge(t.Context(), a, b, "ann", ""); err != nil {
			t.Error(err)
		}
		if _, err := s.Unmerge(t.Context(), a, "ann", ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Merge(t.Context(), a, b, "ann", ""); err != nil {
		t.Error(err)
	}
	filing.Wait()
	if n := r.count(`select count(*) from perdure.dead_letters where fingerprint = $1`, b); n != 182 {
		t.Errorf("%d letters are in the group, want 182", n)
	}
	// A process that was killed after its word was given: an index does the rest.
	if _, err := r.db.Exec(t.Context(), `update perdure.group_aliases set into_group = null, settled = false`); err != nil {
		t.Fatal(err)
	}
	if err := x.pruneOnce(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := r.count(`select count(*) from perdure.dead_letters where fingerprint = $1`, a); n != 181 {
		t.Errorf("%d letters are back, want 181", n)
	}
}

// A merge waits for the letters that are being filed by the aliases as they were, and for
// no reader: a dump of the database holds every table for as long as it takes.
func TestAMergeWaitsForLettersThatAreBeingFiledAndForNoReader(t *testing.T) {
	r, x := storeRig(t)
	s := NewLetters(r.db)
	a, b := r.file(x, 1, 1, "urn:a", "one"), r.file(x, 2, 2, "urn:b", "two")
	dump, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Rollback(context.Background()) //nolint:errcheck // it only reads
	if _, err := dump.Exec(t.Context(), `select * from perdure.group_aliases`); err != nil {
		t.Fatal(err)
	}
	filer, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer filer.Rollback(context.Background()) //nolint:errcheck // it is committed by then, or the test has failed
	l := letterOf("main-1-3", 0)
	l.ErrorClass, l.Message, l.Fingerprint = "urn:a", "one", a
	filing := &batch{letters: []letterRow{row(l, "payments", &kgo.Record{Topic: "d"})}}
	if err := filing.copyLetters(t.Context(), filer); err != nil {
		t.Fatal(err)
	}
	merged := make(chan error, 1)
	go func() { _, err := s.Merge(t.Context(), a, b, "ann", ""); merged <- err }()
	testkit.Eventually(t, time.Minute, func() (bool, string) {
		select {
		case err := <-merged:
			t.Fatalf("it did not wait for the letter that is being filed: %v", err)
		default:
		}
		return r.count(`select count(*) from pg_locks where not granted and locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`) == 1, "it does not wait"
	})
	if group := ""; r.db.QueryRow(t.Context(), `select perdure.group_of($1)`, a).Scan(&group) != nil || group != a {
		t.Errorf("who reads a group's name gets %q", group)
	}
	if err := filer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-merged; err != nil {
		t.Fatal(err) // the dump still holds its table
	}
	if n := r.count(`select count(*) from perdure.dead_letters where fingerprint = $1`, b); n != 3 {
		t.Errorf("%d letters are in the group, want 3", n)
	}
}

func TestMergeOverHTTP(t *testing.T) {
	r, x := storeRig(t)
	a, b := r.file(x, 1, 3, "urn:a", "one"), r.file(x, 4, 5, "urn:b", "two")
	h := lettersAPI(t, r.db)
	post := func(path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		q := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/v1/failure-groups/"+path, strings.NewReader(body))
		q.Header.Set("Content-Type", "application/json")
		h.ServeHTTP(w, q)
		return w
	}
	for _, c := range []struct {
		path, body string
		code       int
		has        string
	}{
		{a + "/merge", `{"into":"fp1:none"}`, 404, "no-such-group"},
		{a + "/merge", `{}`, 422, "into"},
		{a + "/unmerge", `{}`, 409, "group-not-merged"},
		{a + "/merge", `{"into":"` + b + `","why":"w"}`, 200, `"moved":3`},
		{b + "/merge", `{"into":"` + a + `"}`, 409, "group-merged"},
		{a + "/unmerge", `{"why":"w"}`, 200, `"group":"` + a + `"`},
	} {
		if w := post(c.path, c.body); w.Code != c.code || !strings.Contains(w.Body.String(), c.has) {
			t.Errorf("%s %s: %d %s, want %d with %s", c.path, c.body, w.Code, w.Body, c.code, c.has)
		}
	}
	if n := r.count(`select count(*) from perdure.audit where what like 'group.%' and origin like '192.0.2.1 %'`); n != 2 {
		t.Errorf("%d rows of the audit say where they were asked from, want 2", n)
	}
}

// A process of an older version holds no lock: it files by aliases that are changed meanwhile.
func TestLettersThatAnOlderVersionFiledDuringAMergeAreMovedLater(t *testing.T) {
	r, x := storeRig(t)
	s := NewLetters(r.db)
	a, b, c := r.file(x, 1, 3, "urn:a", "one"), r.file(x, 4, 5, "urn:b", "two"), r.file(x, 6, 7, "urn:c", "three")
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := r.db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range [][2]string{{a, b}, {b, c}} { // a chain
		if _, err := s.Merge(t.Context(), m[0], m[1], "ann", ""); err != nil {
			t.Fatal(err)
		}
	}
	where := func() int {
		return r.count(`select count(*) from perdure.dead_letters where fingerprint = $1 and joined_from is distinct from fingerprint`, c)
	}
	if n := where(); n != 7 {
		t.Fatalf("%d letters are in the group, want 7", n)
	}
	exec(`update perdure.dead_letters set fingerprint = $1, joined_from = null where letter = 'main-1-1@0'`, a) // as they were filed
	exec(`update perdure.dead_letters set fingerprint = $1 where letter = 'main-1-2@0'`, b)
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := where(); n != 7 {
		t.Errorf("%d letters are in the group after a look for strays, want 7", n)
	}
	// The other way round: a join is taken back.
	if _, err := s.Unmerge(t.Context(), b, "ann", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unmerge(t.Context(), a, "ann", ""); err != nil {
		t.Fatal(err)
	}
	exec(`update perdure.dead_letters set fingerprint = $1, joined_from = $2 where letter = 'main-1-1@0'`, b, a)
	exec(`update perdure.dead_letters set fingerprint = $1, joined_from = $2 where letter = 'main-1-4@0'`, c, b)
	if err := x.pruneOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	for group, n := range map[string]int{a: 3, b: 2, c: 2} {
		if got := r.count(`select count(*) from perdure.dead_letters where fingerprint = $1 and joined_from is null`, group); got != n {
			t.Errorf("%d letters are in group %s, want %d", got, group, n)
		}
	}
	if n := r.count(`select count(*) from perdure.group_aliases`); n != 0 {
		t.Errorf("%d aliases are left", n)
	}
}

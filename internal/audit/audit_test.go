package audit

// The chain: whatever is changed, in whichever column, is found.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func open(t *testing.T) (*Log, *pgxpool.Pool) {
	t.Helper()
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return New(db), db
}

const write = `insert into perdure.audit (who, what, letter, replay, why, details) values ($1, 'test', $2, $3, 'because', '{"a": 1}')`

func fill(t *testing.T, db *pgxpool.Pool, n int) {
	t.Helper()
	for i := range n {
		var letter, replay *string
		if s := fmt.Sprint("l", i); i%2 == 0 {
			letter, replay = &s, &s
		}
		if _, err := db.Exec(t.Context(), write, fmt.Sprint("w", i), letter, replay); err != nil {
			t.Fatal(err)
		}
	}
}

func verdict(t *testing.T, l *Log) Verdict {
	t.Helper()
	v, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheAuditIsNotTruncated(t *testing.T) {
	l, db := open(t)
	fill(t, db, 3)
	for _, sql := range []string{`truncate perdure.audit`, `begin; set local perdure.audit_prune = 'on'; truncate perdure.audit cascade; commit`} {
		if _, err := db.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if v := verdict(t, l); v.Rows != 3 || v.Broken != "" {
		t.Errorf("%+v", v)
	}
}

func TestAnyChangeOfAnyColumnIsFound(t *testing.T) {
	l, db := open(t)
	if v := verdict(t, l); v.Broken != "" || v.Rows != 0 {
		t.Fatalf("an empty chain: %+v", v)
	}
	fill(t, db, 6)
	whole := verdict(t, l)
	if whole.Broken != "" || whole.Rows != 6 || whole.To != 6 || len(whole.Hash) != 64 {
		t.Fatalf("%+v", whole)
	}
	var columns []string
	rows, err := db.Query(t.Context(), `select column_name from information_schema.columns where table_schema = 'perdure' and table_name = 'audit'`)
	if err == nil {
		columns, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil || len(columns) < 12 {
		t.Fatal(columns, err)
	}
	changes := map[string]string{
		"n": "n + 1000", "place": "place + 1000", "at": "at + interval '1 microsecond'", "details": `'{"a": 2}'`,
	}
	edits := map[string]string{
		"a row is taken out":       `delete from perdure.audit where place = %d`,
		"the last rows are gone":   `delete from perdure.audit where place >= %d`,
		"two rows change places":   `update perdure.audit set place = case place when %[1]d then -1 else %[1]d end where place in (%[1]d, %[1]d %% 6 + 1)`,
		"a row that nobody linked": `insert into perdure.audit (n, who, what, place, prev, hash) overriding system value values (99, 'x', 'y', %d + 6, '', '')`,
	}
	for _, c := range columns {
		to := changes[c]
		if to == "" {
			to = "coalesce(" + c + ", '') || 'x'"
		}
		edits["column "+c] = "update perdure.audit set " + c + " = " + to + " where place = %d"
	}
	for name, edit := range edits {
		for _, place := range []int{1, 3, 6} {
			tx, err := db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, sql := range []string{`alter table perdure.audit disable trigger all`, `drop index perdure.audit_place`, `alter table perdure.audit alter column n drop identity`, fmt.Sprintf(edit, place)} {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			v, err := verifyIn(t.Context(), tx)
			if err != nil || v.Broken == "" {
				t.Errorf("%s, at %d: not found (%v)", name, place, err)
			}
			_ = tx.Rollback(t.Context())
		}
	}
	if v := verdict(t, l); v != whole {
		t.Errorf("%+v, want %+v", v, whole)
	}
}

// Whichever single byte of a row is another one, in the text of whichever column,
// it is found; a text that its column's type refuses cannot be written at all.
func TestAnyChangedByteIsFound(t *testing.T) {
	l, db := open(t)
	fill(t, db, 3)
	whole := verdict(t, l)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // nothing of it stays
	do := func(sql string, args ...any) error { _, err := tx.Exec(t.Context(), sql, args...); return err }
	for _, sql := range []string{`alter table perdure.audit disable trigger all`, `drop index perdure.audit_place`, `alter table perdure.audit alter column n drop identity`} {
		if err := do(sql); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := tx.Query(t.Context(), `select a.attname, format_type(a.atttypid, a.atttypmod), e.value from perdure.audit x, jsonb_each_text(to_jsonb(x)) e
join pg_attribute a on a.attrelid = 'perdure.audit'::regclass and a.attname = e.key where x.place = 1 and e.value is not null order by a.attnum`)
	if err != nil {
		t.Fatal(err)
	}
	type cell struct{ Name, Kind, Text string }
	cells, err := pgx.CollectRows(rows, pgx.RowToStructByPos[cell])
	if err != nil || len(cells) != 12 {
		t.Fatalf("%d columns have a text, want all 12 but prev, which is empty, and that: %v", len(cells), err)
	}
	changed := map[string]int{}
	for _, c := range cells {
		bytes := rand.Perm(len(c.Text))
		for _, at := range bytes[:min(len(bytes), 12)] { // some of a long text's
			other := []byte(c.Text)
			other[at] = map[bool]byte{true: '7', false: '8'}[other[at] == '8']
			if err := do(`savepoint whole`); err != nil {
				t.Fatal(err)
			}
			// A text that reads as the same value (jsonb's spaces, a zone's digits) is no change.
			tag, err := tx.Exec(t.Context(), `update perdure.audit set `+c.Name+` = $1::text::`+c.Kind+` where place = 1 and `+c.Name+` is distinct from $1::text::`+c.Kind, string(other))
			if err == nil && tag.RowsAffected() == 1 {
				changed[c.Name]++
				if v, err := verifyIn(t.Context(), tx); err != nil || v.Broken == "" {
					t.Errorf("%s: %q for %q is not found: %v", c.Name, other, c.Text, err)
				}
			}
			if err := do(`rollback to whole`); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range cells {
		if changed[c.Name] == 0 && c.Text != "" {
			t.Errorf("no byte of %s was changed", c.Name)
		}
	}
	if v, err := verifyIn(t.Context(), tx); err != nil || v != whole {
		t.Errorf("%+v, want %+v: %v", v, whole, err)
	}
}

func TestAuditIsAppendOnly(t *testing.T) {
	_, db := open(t)
	fill(t, db, 2)
	for _, sql := range []string{`update perdure.audit set who = 'me'`, `delete from perdure.audit`} {
		if _, err := db.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Rivals, and some that roll back: one chain without a gap.
func TestConcurrentWritersMakeOneChain(t *testing.T) {
	l, db := open(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 15 {
				err := pgx.BeginFunc(context.Background(), db, func(tx pgx.Tx) error {
					if _, err := tx.Exec(context.Background(), write, fmt.Sprint(w), nil, nil); err != nil {
						return err
					}
					if (w+i)%3 == 0 {
						return errBack
					}
					return nil
				})
				if err != nil && !errors.Is(err, errBack) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if v := verdict(t, l); v.Broken != "" || v.Rows != 80 || v.To != 80 {
		t.Errorf("%+v", v)
	}
}

var errBack = errors.New("rolled back")

func TestPrunedChainIsStillWhole(t *testing.T) {
	l, db := open(t)
	fill(t, db, 10)
	if _, err := db.Exec(t.Context(), `alter table perdure.audit disable trigger all`); err != nil {
		t.Fatal(err)
	}
	// Old rows as they would have been written then.
	if _, err := db.Exec(t.Context(), `do $$ declare a perdure.audit; h text := ''; begin
  for a in select * from perdure.audit order by place loop
    if a.place <= 4 or a.place = 6 then a.at := a.at - interval '2 years'; end if;
    a.prev := h; h := perdure.audit_hash(a);
    update perdure.audit set at = a.at, prev = a.prev, hash = h where place = a.place;
  end loop; update perdure.audit_head set hash = h; end $$`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), `alter table perdure.audit enable trigger all`); err != nil {
		t.Fatal(err)
	}
	n, err := l.Prune(t.Context(), 365*24*time.Hour)
	if err != nil || n != 4 {
		t.Fatalf("pruned %d, want the 4 before the first young one: %v", n, err)
	}
	if v := verdict(t, l); v.Broken != "" || v.Rows != 6 || v.From != 5 {
		t.Errorf("%+v", v)
	}
	fill(t, db, 1)
	if v := verdict(t, l); v.Broken != "" || v.To != 11 {
		t.Errorf("%+v", v)
	}
}

func TestAuditOverHTTP(t *testing.T) {
	l, db := open(t)
	fill(t, db, 5)
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	l.Routes(a)
	for path, want := range map[string]string{
		"/v1/audit":                     `"place":5`,
		"/v1/audit?limit=2":             `"next":4`,
		"/v1/audit?limit=2&before=4":    `"place":3`,
		"/v1/audit?who=w2":              `"letter":"l2"`,
		"/v1/audit?replay=l4&what=test": `"who":"w4"`,
		"/v1/audit?whoo=w2":             `422`,
		"/v1/audit/verify":              `"rows":5`,
		"/v1/audit/export":              `"place":1,`,
	} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1"+path, nil))
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

package dlq

// The filters of both lists as a client gives them, over HTTP: a parameter that
// is not bound would show everything, and a person would replay everything.

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// lettersAPI serves the routes of Letters over db.
func lettersAPI(t *testing.T, db *pgxpool.Pool) *api.API {
	t.Helper()
	a := api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	NewLetters(db).Routes(a)
	return a
}

func get(a http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+path, nil))
	return w
}

func TestEveryFilterFilters(t *testing.T) {
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	old, late := time.Unix(1e9, 0), time.Unix(1e9+3600, 0)
	r := &rig{t: t, db: db}
	r.deadRows([]deadRow{
		{letter: "main-1-1@0", kind: "a", queue: "q", reason: "permanent", state: "open", group: "fp1:01", died: old},
		{letter: "main-1-2@0", kind: "b", queue: "q", reason: "permanent", state: "open", group: "fp1:02", died: old},
		{letter: "main-1-3@0", kind: "a", queue: "r", reason: "permanent", state: "open", group: "fp1:03", died: old},
		{letter: "main-1-4@0", kind: "a", queue: "q", reason: "exhausted", state: "open", group: "fp1:04", died: old},
		{letter: "main-1-5@0", kind: "a", queue: "q", reason: "permanent", state: "held", group: "fp1:05", died: old},
		{letter: "main-1-6@0", kind: "a", queue: "q", reason: "permanent", state: "open", group: "fp1:06", died: late},
	})
	if _, err := db.Exec(t.Context(), `update perdure.dead_letters set key = 'k' where letter = 'main-1-2@0'`); err != nil {
		t.Fatal(err)
	}
	a := lettersAPI(t, db)
	for query, want := range map[string]string{ // the last digit of letter and group
		"":                                  "123456",
		"kind=b":                            "2",
		"kind=bogus":                        "",
		"queue=r":                           "3",
		"queue=bogus":                       "",
		"group=fp1:04":                      "4",
		"group=fp1:bogus":                   "",
		"state=held":                        "5",
		"state=discarded":                   "",
		"reason=exhausted":                  "4",
		"reason=too_large":                  "",
		"since=2001-09-09T02:00:00Z":        "6",
		"until=2001-09-09T02:00:00Z":        "12345",
		"until=2001-09-09T02:00:00Z&kind=b": "2",
		"until=2001-09-09T01:46:40Z":        "", // they died at that second
		"since=2001-09-09T02:00:00Z&until=2001-09-09T02:46:41Z": "6",
		"group=fp1:06&until=2001-09-09T02:00:00Z":               "",
		"kind=a&queue=q&state=open&group=fp1:01":                "1",
	} {
		if got := shown(t, get(a, "/v1/dead-letters?"+query), "letter"); got != want {
			t.Errorf("dead-letters?%s: %q, want %q", query, got, want)
		}
		if got := shown(t, get(a, "/v1/failure-groups?"+query), "group"); got != want {
			t.Errorf("failure-groups?%s: %q, want %q", query, got, want)
		}
	}
	if got := shown(t, get(a, "/v1/dead-letters?key=k"), "letter"); got != "2" {
		t.Errorf("dead-letters?key=k: %q", got)
	}
}

// shown are the last digits of what an answer lists, in order.
func shown(t *testing.T, w *httptest.ResponseRecorder, name string) string {
	t.Helper()
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	var list []map[string]any
	for _, field := range []string{"letters", "groups"} {
		if raw := answer[field]; raw != nil {
			if err := json.Unmarshal(raw, &list); err != nil {
				t.Fatal(err)
			}
		}
	}
	var digits []string
	for _, e := range list {
		s := strings.TrimSuffix(e[name].(string), "@0")
		digits = append(digits, s[len(s)-1:])
	}
	slices.Sort(digits)
	return strings.Join(digits, "")
}

// A filter that nothing can match, or that nobody reads, is a mistake to be
// told, not an empty or a full list.
func TestAWrongFilterIsNamed(t *testing.T) {
	db, err := pgxpool.New(t.Context(), "postgres://someone@127.0.0.1:1/somewhere") // never asked
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a := lettersAPI(t, db)
	for _, route := range []string{"/v1/dead-letters?", "/v1/failure-groups?"} {
		for query, names := range map[string]string{
			"state=bogus":     "#/query/state",
			"reason=bogus":    "#/query/reason",
			"since=yesterday": "#/query/since",
			"limit=0":         "#/query/limit",
			"stat=open":       "#/query/stat",
		} {
			w := get(a, route+query)
			if w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), `"`+names+`"`) {
				t.Errorf("%s%s: %d %s, want 422 that names %s", route, query, w.Code, w.Body, names)
			}
		}
	}
}

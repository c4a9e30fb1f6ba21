package dlq

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/jqchild"
	"github.com/perdure/perdure/internal/testkit"
)

// jqMain is this test's binary as the process that runs jq.
func jqMain() {
	if err := jqchild.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type whereAnswer struct {
	Letters []Entry
	Next    string
	Looked  int
}

func (d *desk) where(query url.Values) (a whereAnswer) {
	d.t.Helper()
	d.send(http.MethodGet, "/v1/dead-letters?"+query.Encode(), "", 200, &a)
	return a
}

// whereDesk has n letters with payload {"n": 0…} and the header x-tenant acme or other.
func whereDesk(t *testing.T, n int) *desk {
	d := newDesk(t)
	d.api = api.New(http.NewServeMux(), "test", nil, testkit.Logger(t))
	letters := NewLetters(d.db).WithJQ([]string{os.Args[0], "where-jq"})
	letters.longest = time.Minute // a busy machine starts a process slowly
	letters.Routes(d.api)
	rows := make([]deadRow, n)
	for i := range rows {
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: []string{"a", "b"}[i%2], queue: "q", reason: "permanent", state: "open", group: "fp1:01",
			died: time.Unix(1e9+int64(i), 0), payload: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	d.deadRows(rows)
	if _, err := d.db.Exec(t.Context(), `update perdure.dead_letters set headers = jsonb_build_array(jsonb_build_array('x-tenant', case when letter like '%7@0' then $1 else $2 end))`,
		base64.StdEncoding.EncodeToString([]byte("acme")), base64.StdEncoding.EncodeToString([]byte("other"))); err != nil {
		t.Fatal(err)
	}
	return d
}

// A list by header and payload, page after page, is what a look at each letter says.
func TestListByHeaderAndPayload(t *testing.T) {
	d := whereDesk(t, 150)
	query := url.Values{"where": {`.headers["x-tenant"] == "acme" and .payload.n >= 20`}, "limit": {"4"}}
	var got []string
	looked := 0
	for pages := 0; ; pages++ {
		a := d.where(query)
		if pages > 20 || len(a.Letters) > 4 {
			t.Fatalf("page %d of %d letters", pages, len(a.Letters))
		}
		for _, e := range a.Letters {
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(e.Letter, "main-1-"), "@0"))
		}
		looked += a.Looked
		if query.Set("cursor", a.Next); a.Next == "" {
			break
		}
	}
	if text := strings.Join(got, " "); text != "147 137 127 117 107 97 87 77 67 57 47 37 27" || looked != 150 {
		t.Errorf("%s, of %d that were looked at", text, looked)
	}
	if a := d.where(url.Values{"where": {`.payload.n == 7`}, "kind": {"b"}, "until": {time.Unix(1e9+8, 0).UTC().Format(time.RFC3339)}}); len(a.Letters) != 1 || a.Looked != 4 {
		t.Errorf("with other filters: %+v", a)
	}
	// What is wrong in a letter is no match; what is wrong with the condition is said.
	if a := d.where(url.Values{"where": {`.payload.n.deeper == 1`}}); len(a.Letters) != 0 {
		t.Errorf("%+v", a)
	}
	for where, detail := range map[string]string{`.payload.n >`: "at byte", `nope(1)`: "nope", `halt`: "halts", `last(repeat(1))`: "stopped"} {
		var p api.Problem
		d.send(http.MethodGet, "/v1/dead-letters?"+url.Values{"where": {where}}.Encode(), "", 422, &p)
		if text := fmt.Sprintf("%+v", p.Errors); !strings.Contains(text, detail) || !strings.Contains(text, "#/query/where") {
			t.Errorf("%s: %s, want %q", where, text, detail)
		}
	}
}

// One page looks at a bounded number of letters, and says where it stopped.
func TestAPageByAConditionIsBounded(t *testing.T) {
	d := whereDesk(t, MostLooked+100)
	query := url.Values{"where": {`.payload.n == 3`}}
	a := d.where(query)
	if len(a.Letters) != 0 || a.Next == "" || a.Looked < 100 || a.Looked > MostLooked+exportPage {
		t.Fatalf("%d letters, %d looked at, next %q", len(a.Letters), a.Looked, a.Next)
	}
	for pages := 0; len(a.Letters) == 0; pages++ {
		if a.Next == "" || pages > 50 {
			t.Fatal("it is not found")
		}
		query.Set("cursor", a.Next)
		a = d.where(query)
	}
	if a.Letters[0].Letter != "main-1-3@0" {
		t.Errorf("%+v", a.Letters)
	}
}

// What was found before a letter that the condition does not come to an end at is given;
// the page that begins with that letter says so.
func TestALetterThatStopsAConditionHidesNoOthers(t *testing.T) {
	d := whereDesk(t, 10)
	query := url.Values{"where": {`if .payload.n == 5 then last(repeat(1)) else .payload.n != 7 end`}}
	a := d.where(query)
	if len(a.Letters) != 3 || a.Letters[2].Letter != "main-1-6@0" || a.Looked != 4 || a.Next == "" {
		t.Fatalf("%+v", a)
	}
	query.Set("cursor", a.Next)
	var p api.Problem
	d.send(http.MethodGet, "/v1/dead-letters?"+query.Encode(), "", 422, &p)
	if text := fmt.Sprintf("%+v", p.Errors); !strings.Contains(text, "main-1-5@0") {
		t.Error(text)
	}
	// A page that is full does not come to it.
	query.Del("cursor")
	query.Set("limit", "3")
	if a := d.where(query); len(a.Letters) != 3 || a.Next == "" {
		t.Errorf("%+v", a)
	}
}

func TestGroupsByACondition(t *testing.T) {
	d := whereDesk(t, 60)
	if _, err := d.db.Exec(t.Context(), `update perdure.dead_letters set fingerprint = 'fp1:0' || (split_part(split_part(letter, '-', 3), '@', 1)::int % 3)`); err != nil {
		t.Fatal(err)
	}
	var a struct {
		Groups []Group
		Looked int
		More   bool
	}
	ask := func(query url.Values) string {
		t.Helper()
		a.Groups, a.Looked, a.More = nil, 0, false
		d.send(http.MethodGet, "/v1/failure-groups?"+query.Encode(), "", 200, &a)
		var got []string
		for _, g := range a.Groups {
			got = append(got, fmt.Sprintf("%s %d/%d", g.Group, g.Matched, g.Letters))
		}
		slices.Sort(got)
		return strings.Join(got, ", ")
	}
	for where, want := range map[string]string{
		`.payload.n >= 57`:                  "fp1:00 1/20, fp1:01 1/20, fp1:02 1/20",
		`.headers["x-tenant"] == "acme"`:    "fp1:00 2/20, fp1:01 2/20, fp1:02 2/20",
		`.payload.n == 7 or .payload.n==10`: "fp1:01 2/20",
		`false`:                             "",
	} {
		if got := ask(url.Values{"where": {where}}); got != want || a.Looked != 60 || a.More {
			t.Errorf("%s: %q, want %q; %d looked at", where, got, want, a.Looked)
		}
	}
	if got := ask(url.Values{"where": {`.payload.n < 10`}, "kind": {"b"}, "limit": {"1"}}); !strings.HasSuffix(got, "/10") || a.Looked != 30 {
		t.Errorf("with other filters: %q, %d looked at", got, a.Looked)
	}
	if got := ask(url.Values{}); strings.Contains(got, " 1/") {
		t.Errorf("without a condition: %q", got)
	}
	var p api.Problem
	d.send(http.MethodGet, "/v1/failure-groups?"+url.Values{"where": {`.payload.n >`}}.Encode(), "", 422, &p)
	if !strings.Contains(fmt.Sprint(p.Errors), "at byte") {
		t.Errorf("%+v", p)
	}
}

// An export by a condition looks at every letter, page after page, and says where it was stopped.
func TestExportByACondition(t *testing.T) {
	d := whereDesk(t, 3*exportPage+5)
	export := func(where, more string) (letters, failed string) {
		t.Helper()
		w := get(d.api, "/v1/dead-letters/export?"+url.Values{"where": {where}}.Encode()+more)
		if w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		var got []string
		for line := range strings.Lines(w.Body.String()) {
			var l struct {
				Letter, Error string
				Payload       json.RawMessage
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil || l.Error == "" && len(l.Payload) == 0 {
				t.Fatalf("%v: %s", err, line)
			}
			if failed = l.Error; l.Error == "" {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(l.Letter, "main-1-"), "@0"))
			}
		}
		return strings.Join(got, " "), failed
	}
	if got, failed := export(`.payload.n < 3 or .payload.n == 50`, ""); got != "50 2 1 0" || failed != "" {
		t.Errorf("%q %q", got, failed)
	}
	if got, _ := export(`.payload.n < 3`, "&kind=b"); got != "1" {
		t.Errorf("with another filter: %q", got)
	}
	if got, failed := export(`if .payload.n == 60 then last(repeat(1)) else .payload.n > 98 end`, ""); got != "100 99" || !strings.Contains(failed, "main-1-60@0") {
		t.Errorf("stopped: %q %q", got, failed)
	}
	var p api.Problem
	d.send(http.MethodGet, "/v1/dead-letters/export?"+url.Values{"where": {`nope(1)`}}.Encode(), "", 422, &p)
	if !strings.Contains(fmt.Sprint(p.Errors), "nope") {
		t.Errorf("%+v", p)
	}
}

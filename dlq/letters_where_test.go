package dlq

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
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
	NewLetters(d.db).WithJQ([]string{os.Args[0], "where-jq"}).Routes(d.api)
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

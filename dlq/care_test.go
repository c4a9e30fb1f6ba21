package dlq

// What people say of a group, over HTTP.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/audit"
	"github.com/perdure/perdure/internal/pg"
	"github.com/perdure/perdure/internal/testkit"
)

// desk is the API over an index of its own.
type desk struct {
	*rig
	api *api.API
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	db, err := pg.Pool(t.Context(), testkit.MigratedPostgres(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return &desk{&rig{t: t, db: db}, lettersAPI(t, db)}
}

// send makes a request and decodes the answer, whose status must be want.
func (d *desk) send(method, path, body string, want int, out any) {
	d.t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	d.api.ServeHTTP(w, r)
	if w.Code != want {
		d.t.Fatalf("%s %s %.200s: %d %s, want %d", method, path, body, w.Code, w.Body, want)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
		d.t.Fatalf("%s %s: %s: %v", method, path, w.Body, err)
	}
}

// care is what is said of a group now.
func (d *desk) care(group string) Care {
	d.t.Helper()
	var g Group
	d.send(http.MethodGet, "/v1/failure-groups/"+group, "", 200, &g)
	return g.Care
}

func (d *desk) say(group, body string) Care {
	d.t.Helper()
	var g Group
	d.send(http.MethodPatch, "/v1/failure-groups/"+group, body, 200, &g)
	if g.Group != group {
		d.t.Fatalf("told of %s, answered %s", group, g.Group)
	}
	return g.Care
}

// died adds a letter of group.
func (d *desk) died(n int, group, release string, at time.Time) {
	d.t.Helper()
	d.deadRows([]deadRow{{letter: fmt.Sprintf("main-1-%d@0", n), kind: "k", queue: "q", reason: "permanent", state: "open", group: group, release: release, died: at}})
}

func (d *desk) audited(what string) int64 { return d.auditedFrom("", what) }

// asked counts only what says that it was asked from the address of a desk's requests.
func (d *desk) asked(what string) int64 { return d.auditedFrom("192.0.2.1 ", what) }

func (d *desk) auditedFrom(origin, what string) int64 {
	d.t.Helper()
	var n int64
	if err := d.db.QueryRow(d.t.Context(), `select count(*) from perdure.audit where what = $1 and starts_with(origin, $2)`, what, origin).Scan(&n); err != nil {
		d.t.Fatal(err)
	}
	return n
}

func TestWhatIsSaidOfAGroupStays(t *testing.T) {
	d := newDesk(t)
	d.died(1, "fp1:01", "v1", time.Now().Add(-time.Hour))
	if c := d.care("fp1:01"); c != (Care{State: "open"}) {
		t.Fatalf("before anybody said anything: %+v", c)
	}
	d.say("fp1:01", `{"state":"acknowledged","owner":"ann","why":"looking"}`)
	c := d.say("fp1:01", `{"note":"the bank's shard 7 is down","runbook":"https://wiki.example/bank"}`)
	if c.State != "acknowledged" || c.Owner != "ann" || c.Note != "the bank's shard 7 is down" || c.Runbook != "https://wiki.example/bank" || c.Who == "" {
		t.Fatalf("one change took another's away: %+v", c)
	}
	d.died(2, "fp1:01", "v2", time.Now()) // what is said outlives new letters
	if again := d.care("fp1:01"); again.State != "acknowledged" || again.Note != c.Note {
		t.Fatalf("after a new letter: %+v", again)
	}
	if c = d.say("fp1:01", `{"runbook":"","state":"open"}`); c.Runbook != "" || c.State != "open" || c.Owner != "ann" {
		t.Fatalf("%+v", c)
	}
	for what, n := range map[string]int64{"group.acknowledge": 1, "group.note": 1, "group.reopen": 1} {
		if got := d.asked(what); got != n {
			t.Errorf("%d rows %s in the audit, want %d", got, what, n)
		}
	}
	if v, err := audit.New(d.db).Verify(t.Context()); err != nil || v.Rows != 3 {
		t.Errorf("%+v %v", v, err)
	}
}

func TestAGroupThatComesBackInANewReleaseIsRegressed(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	earlier, later := func(h time.Duration) time.Time { return now.Add(-h * time.Hour) }, now.Add(time.Minute)
	d.died(1, "fp1:01", "v9", earlier(3))
	d.died(2, "fp1:02", "v9", earlier(3))
	d.died(3, "fp1:03", "v9", earlier(3))
	d.died(4, "fp1:09", "v8", earlier(4))  // of another group: v8 is not after this
	d.died(5, "fp1:09", "v10", earlier(2)) // and v10 has run for two hours when they resolve
	d.died(6, "fp1:09", "v11", earlier(1)) // of a branch that goes on beside v10
	d.say("fp1:01", `{"state":"resolved"}`)
	d.say("fp1:02", `{"state":"resolved","release":"v10"}`)
	d.say("fp1:03", `{"state":"resolved","release":"v12"}`)
	states := func(want string) {
		t.Helper()
		for _, g := range []string{"fp1:01", "fp1:02", "fp1:03"} {
			if got := d.care(g).State; got != want {
				t.Fatalf("%s is %s, want %s", g, got, want)
			}
		}
	}
	d.died(11, "fp1:01", "v8", later)
	d.died(12, "fp1:01", "v9", later)
	d.died(13, "fp1:01", "v10", later) // superseded by v11 when they resolved
	d.died(14, "fp1:02", "v8", later)
	d.died(15, "fp1:02", "v9", later)
	d.died(16, "fp1:03", "v11", later)
	states("resolved")
	d.died(21, "fp1:01", "v11", later) // the newest had the mend, or nobody had
	d.died(22, "fp1:02", "v11", later) // v10 was said to have it, and v11 came later
	d.died(23, "fp1:03", "v12", later)
	states("regressed")
	var p api.Problem
	d.send(http.MethodPatch, "/v1/failure-groups/fp1:01", `{"state":"muted","release":"v1"}`, 422, &p)
	if text := fmt.Sprintf("%q", p.Errors); !strings.Contains(text, "#/release") {
		t.Error(text)
	}
}

// First and last release go by deaths, not by names, and outlive folding.
func TestReleasesOfAGroupStandInTheOrderOfDeaths(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	for n, r := range []struct {
		release string
		ago     time.Duration
	}{{"v9", 5 * time.Hour}, {"v10", 4 * time.Hour}, {"b2c", 3 * time.Hour}, {"v9", 2 * time.Hour}, {"", time.Hour}} {
		d.died(n, "fp1:01", r.release, now.Add(-r.ago))
	}
	look := func(query, releases, last string) {
		t.Helper()
		var list struct{ Groups []Group }
		d.send(http.MethodGet, "/v1/failure-groups"+query, "", 200, &list)
		if g := list.Groups[0]; strings.Join(g.Releases, " ") != releases || g.FirstRelease != g.Releases[0] || g.LastRelease != last {
			t.Errorf("%s: %q, from %s to %s; want %q to %s", query, g.Releases, g.FirstRelease, g.LastRelease, releases, last)
		}
	}
	since := "?since=" + now.Add(-270*time.Minute).UTC().Format(time.RFC3339)
	until := "?until=" + now.Add(-210*time.Minute).UTC().Format(time.RFC3339)
	for _, settle := range []string{`select 1`, `select perdure.fold_groups(1000)`, `select perdure.recount_groups()`} {
		if _, err := d.db.Exec(t.Context(), settle); err != nil {
			t.Fatal(err)
		}
		look("", "v9 v10 b2c", "v9")
		look(since, "v10 b2c v9", "v9")
		look(until, "v9 v10", "v10")
	}
}

func TestAMutedGroupComesBack(t *testing.T) {
	d := newDesk(t)
	d.died(1, "fp1:01", "", time.Now())
	d.died(2, "fp1:02", "", time.Now())
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if c := d.say("fp1:01", `{"state":"muted","until":"`+until+`"}`); c.State != "muted" || c.Until == nil {
		t.Fatalf("%+v", c)
	}
	for query, want := range map[string]string{"": "12", "hide_muted=true": "2", "care=muted": "1", "care=open": "2", "care=muted&hide_muted=true": ""} {
		if got := shown(t, get(d.api, "/v1/failure-groups?"+query), "group"); got != want {
			t.Errorf("%q shows %q, want %q", query, got, want)
		}
	}
	if _, err := d.db.Exec(t.Context(), `update perdure.failure_groups set until = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	if c := d.care("fp1:01"); c.State != "open" || c.Until != nil {
		t.Errorf("its time is over: %+v", c)
	}
	if got := shown(t, get(d.api, "/v1/failure-groups?hide_muted=true"), "group"); got != "12" {
		t.Errorf("shown are %q", got)
	}
	d.say("fp1:01", `{"state":"muted"}`)
	if c := d.care("fp1:01"); c.State != "muted" || c.Until != nil {
		t.Errorf("without an end: %+v", c)
	}
}

func TestWhatCannotBeSaidOfAGroupIsRefused(t *testing.T) {
	d := newDesk(t)
	d.died(1, "fp1:01", "", time.Now())
	for body, pointer := range map[string]string{
		`{}`:                               `"#"`,
		`{"why":"no reason"}`:              `"#"`,
		`{"state":"regressed"}`:            `#/state`,
		`{"state":"gone"}`:                 `#/state`,
		`{"until":"2999-01-01T00:00:00Z"}`: `#/until`,
		`{"state":"muted","until":"2020-01-01T00:00:00Z"}`:    `#/until`,
		`{"state":"resolved","until":"2999-01-01T00:00:00Z"}`: `#/until`,
		`{"runbook":"javascript:alert(1)"}`:                   `#/runbook`,
		`{"runbook":"wiki"}`:                                  `#/runbook`,
		`{"note":"` + strings.Repeat("x", 4001) + `"}`:        `#/note`,
		`{"colour":"red"}`:                                    `#/colour`,
	} {
		var p api.Problem
		d.send(http.MethodPatch, "/v1/failure-groups/fp1:01", body, 422, &p)
		if text := fmt.Sprintf("%q", p.Errors); !strings.Contains(text, pointer) {
			t.Errorf("%.60s: %s", body, text)
		}
	}
	d.send(http.MethodPatch, "/v1/failure-groups/fp1:99", `{"state":"muted"}`, 404, nil)
	if c := d.care("fp1:01"); c != (Care{State: "open"}) {
		t.Errorf("a refused change left %+v", c)
	}
	var n int64
	if err := d.db.QueryRow(t.Context(), `select count(*) from perdure.audit`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows in the audit, %v", n, err)
	}
}

func TestTheLastDayOfAGroup(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	for n, ago := range []time.Duration{time.Minute, 2 * time.Minute, 90 * time.Minute, 23*time.Hour + 30*time.Minute, 25 * time.Hour} {
		d.died(n, "fp1:01", "", now.Add(-ago))
	}
	var g Group
	d.send(http.MethodGet, "/v1/failure-groups/fp1:01", "", 200, &g)
	if len(g.Hours) != 24 || g.Hours[23] != 2 || g.Hours[22] != 1 || g.Hours[0] != 1 || g.LastHour != 2 || g.Letters != 5 {
		t.Errorf("%+v", g)
	}
}

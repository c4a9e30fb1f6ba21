package replayer

// What people do to replays over HTTP: who may, and what the audit keeps of it.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
	"github.com/perdure/perdure/schemas"
)

// served is an API of jobs with a token for each name, whose value is its name
// twelve times.
func served(t *testing.T, jobs *Jobs, names ...string) (call func(as, method, path, body string) (int, map[string]any)) {
	t.Helper()
	file := "tokens:\n"
	for _, name := range names {
		file += fmt.Sprintf("  - {name: %s, token: %q, verbs: [read-meta, replay]}\n", name, strings.Repeat(name, 12))
	}
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(http.NewServeMux(), "test", tokens, testkit.Logger(t))
	jobs.Routes(a)
	return func(as, method, path, body string) (int, map[string]any) {
		t.Helper()
		req := httptest.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body)) // from 192.0.2.1
		req.Header.Set("Authorization", "Bearer "+strings.Repeat(as, 12))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		a.ServeHTTP(w, req)
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		return w.Code, answer
	}
}

func TestAnotherTokensNameApproves(t *testing.T) {
	r := newRig(t)
	r.letters(1, 6, nil)
	jobs := NewJobs(r.db, &schemas.Catalog{Replays: schemas.Replays{ApproveOver: 5}}, nil)
	call := served(t, jobs, "ann", "bob")
	_, plan := call("ann", "POST", "/v1/replays", `{"selector": {"all": true}, "canary": {"off": true}, "why": "bank is back"}`)
	id := plan["id"].(string)
	r.run2(r.replayer("a", &known{}), id, Planned)
	for _, c := range []struct {
		as, act string
		status  int
		problem string
	}{
		{"ann", "start", 409, "urn:perdure:problem:needs-approval"},
		{"bob", "start", 409, "urn:perdure:problem:needs-approval"},
		{"ann", "approve", 409, "urn:perdure:problem:needs-approval"}, // it is her own
		{"nobody", "approve", 401, "urn:perdure:problem:unauthorized"},
		{"bob", "approve", 200, ""},
		{"ann", "start", 200, ""},
	} {
		status, answer := call(c.as, "POST", "/v1/replays/"+id+"/"+c.act, "")
		if problem, _ := answer["type"].(string); status != c.status || problem != c.problem {
			t.Errorf("%s by %s: %d %v, want %d %q", c.act, c.as, status, answer, c.status, c.problem)
		}
	}
	if j := r.get(id); j.ApprovedBy != "bob" || j.Who != "ann" || j.State != Running {
		t.Errorf("%+v", j)
	}
}

// Every act is in the audit with who, why, the plan's hash, and the address that it was asked from.
func TestAuditOfEveryAct(t *testing.T) {
	r := newRig(t)
	r.letters(1, 6, nil)
	call := served(t, NewJobs(r.db, &schemas.Catalog{Replays: schemas.Replays{ApproveOver: 5}}, nil), "ann", "bob")
	_, plan := call("ann", "POST", "/v1/replays", `{"selector": {"all": true}, "canary": {"off": true}, "rate": 1, "why": "why of plan"}`)
	id := plan["id"].(string)
	x := r.replayer("a", &known{})
	r.run2(x, id, Planned)
	for _, c := range [][3]string{
		{"bob", "approve", `{"why": "why of approve"}`},
		{"ann", "start", `{"why": "why of start"}`},
		{"ann", "pause", `{"why": "why of pause"}`},
		{"ann", "resume", `{"why": "why of resume"}`},
		{"ann", "rate", `{"rate": 0, "why": "why of rate"}`},
	} {
		if status, answer := call(c[0], "POST", "/v1/replays/"+id+"/"+c[1], c[2]); status != 200 {
			t.Fatalf("%s: %d %v", c[1], status, answer)
		}
	}
	r.run2(x, id, Done)
	rows, err := r.db.Query(t.Context(), `select what, who, why, details ->> 'hash', origin from perdure.audit where replay = $1 order by place`, id)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []string
	for rows.Next() {
		var what, who, why, origin string
		var hash *string
		if err := rows.Scan(&what, &who, &why, &hash, &origin); err != nil {
			t.Fatal(err)
		}
		if hash == nil || *hash != r.get(id).Hash {
			t.Errorf("%s: hash %v of the plan is not there", what, hash)
		}
		got = append(got, fmt.Sprintf("%s %s %q %v", what, who, why, strings.HasPrefix(origin, "192.0.2.1 ")))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`replay.plan ann "why of plan" true`, `replay.approve bob "why of approve" true`, `replay.start ann "why of start" true`, `replay.pause ann "why of pause" true`,
		`replay.resume ann "why of resume" true`, `replay.rate ann "why of rate" true`, `letters.replay ann "why of plan" false`, `replay.done perdure "" false`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("audit:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Which letters a condition takes, or a fixer fails at, tells what is in them: who may
// not read payloads may not ask.
func TestAPlansOwnProgramNeedsTheVerbForPayloads(t *testing.T) {
	r := newRig(t)
	r.letters(1, 2, nil)
	call := served(t, NewJobs(r.db, &schemas.Catalog{Fixers: map[string]*schemas.Fixer{"mend": {Name: "mend", JQ: "."}}}, nil), "ann")
	for spec, want := range map[string]int{
		`"where": ".payload.amount > 5"`:                                      403,
		`"fixer": {"jq": "if .amount > 5 then empty else . end"}`:             403,
		`"fixer": {"patch": [{"op": "test", "path": "/amount", "value": 5}]}`: 403,
		`"fixer": {"name": "mend"}`:                                           202, // the catalog's
		`"limit": 1`:                                                          202,
	} {
		code, answer := call("ann", "POST", "/v1/replays", `{"selector": {"all": true}, `+spec+`}`)
		if code != want || want == 403 && !strings.Contains(answer["detail"].(string), "read-payload") {
			t.Errorf("%s: %d %v", spec, code, answer)
		}
	}
}

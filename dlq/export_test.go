package dlq

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/testkit"
)

func TestAnExportHoldsEveryLetterOnce(t *testing.T) {
	d := newDesk(t)
	const n = 3*exportPage + 5
	rows := make([]deadRow, n)
	for i := range rows {
		rows[i] = deadRow{letter: fmt.Sprintf("main-1-%d@0", i), kind: fmt.Sprintf("k%d", i%2), queue: "q", reason: "permanent", state: "open", group: "fp1:01",
			died: time.Unix(1e9+int64(i/50), 0), payload: fmt.Appendf(nil, `{"n":%d}`, i)} // many at one moment
	}
	d.deadRows(rows)
	for query, want := range map[string]int{"": n, "?kind=k1": n / 2, "?group=fp1:01&state=open&queue=q&reason=permanent": n, "?kind=none": 0, "?key=none": 0, "?since=2001-09-09T01:46:42Z": n - 100} {
		w := get(d.api, "/v1/dead-letters/export"+query)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("%s: %d %v", query, w.Code, w.Header())
		}
		seen := map[string]bool{}
		lines := bufio.NewScanner(w.Body)
		for lines.Scan() {
			var l LetterView
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil || string(l.Payload) != `{"n":`+l.Letter[len("main-1-"):len(l.Letter)-2]+`}` || seen[l.Letter] {
				t.Fatalf("%s: %s: %v", query, lines.Bytes(), err)
			}
			seen[l.Letter] = true
		}
		if len(seen) != want {
			t.Errorf("%s: %d letters, want %d", query, len(seen), want)
		}
	}
}

func TestExportAndConditionNeedTheVerbForPayloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(path, []byte("tokens: [{name: meta, token: at-least-16-characters, verbs: [read-meta]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := api.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	a := api.New(http.NewServeMux(), "test", tokens, testkit.Logger(t))
	NewLetters(nil).Routes(a)
	for _, path := range []string{"dead-letters/export", "dead-letters/export?where=true", "dead-letters?where=true", "failure-groups?where=true"} { // a condition tells what payloads hold
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/v1/"+path, nil)
		r.Header.Set("Authorization", "Bearer at-least-16-characters")
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || !bytes.Contains(w.Body.Bytes(), []byte("read-payload")) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestAnExportThatEndsEarlySaysSo(t *testing.T) {
	d := newDesk(t)
	d.db.Close()
	w := get(d.api, "/v1/dead-letters/export")
	if !bytes.Contains(w.Body.Bytes(), []byte(`{"error":`)) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

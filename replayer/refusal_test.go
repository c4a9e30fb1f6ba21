package replayer

// What is said of a letter that is not replayed holds what others wrote: names in a
// payload, an agent's words.

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/perdure/perdure/schemas"
)

// A name that Postgres cannot hold as text must not stop the letters after it.
func TestARefusalOfAnyNameIsWritten(t *testing.T) {
	r := newRig(t)
	r.letters(1, 3, func(t *schemas.Task) {
		t.Payload = []byte(`{"amount": 1}`)
		if t.ID == "main-1-2" {
			t.Payload = []byte(`{"amount": 1, "a\u0000b": 2}`)
		}
	})
	cat, err := schemas.ParseCatalog("catalog.yaml", []byte("version: 1\nqueues: {payments: {}}\nkinds:\n  idem: {queue: payments, schema: refund.json}\n"),
		fstest.MapFS{"refund.json": {Data: []byte(`{"type": "object", "properties": {"amount": {"type": "number"}}, "additionalProperties": false}`)}})
	if err != nil {
		t.Fatal(err)
	}
	x := r.replayer("a", &known{})
	x.deps.Catalog = cat
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}}, Start: true})
	r.run(x)
	if j, w := r.get(id), r.words(id); j.Replayed != 2 || w["schema"] != 1 {
		t.Errorf("%d went, %v", j.Replayed, w)
	}
}

// Nor what an agent says: it is asked once about each letter.
func TestWhateverAnAgentSaysIsWritten(t *testing.T) {
	answers := map[string]string{
		"main-1-1@0": `{"decision": "hold", "reason": "` + strings.Repeat("x", maxAgentReason-1) + `é"}`,
		"main-1-2@0": `{"decision": "hold", "reason": "a\u0000b"}`,
		"main-1-3@0": `{"decision": "discard", "reason": "a\u0000b"}`,
		"main-1-4@0": `{"patch": [{"op": "remove", "path": "/a\u0000b"}]}`,
		"main-1-5@0": `{"payload": {"amount": 5}}`,
	}
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, letter, _ := strings.Cut(q.Header.Get("Webhook-Id"), "-main-")
		_, _ = io.WriteString(w, answers["main-"+letter])
	}))
	defer srv.Close()
	r := newRig(t)
	r.broken(1, 5)
	x := r.asking(srv.URL, time.Minute)
	id := r.plan(Plan{Spec: Spec{Selector: Selector{All: true}, Fixer: &Fixer{Name: "mender"}}, Start: true})
	r.run(x)
	if j, w := r.get(id), r.words(id); j.Replayed != 1 || w["held"] != 2 || w["discarded"] != 1 || w["fixer"] != 1 {
		t.Errorf("%d went, %v", j.Replayed, w)
	}
	if n := asked.Load(); n != 5 {
		t.Errorf("asked %d times, want 5", n)
	}
}

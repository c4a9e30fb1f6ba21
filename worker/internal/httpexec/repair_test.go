package httpexec

import (
	"net/http"
	"testing"
	"time"

	"github.com/perdure/perdure/schemas"
	"github.com/perdure/perdure/worker/internal/execution"
)

// A repaired payload is another request, under another key; the task is the same.
func TestARepairedPayloadIsAnotherRequest(t *testing.T) {
	for repair, key := range map[int]string{0: "main-1-7", 1: "main-1-7-r1", 12: "main-1-7-r12"} {
		x := executor(t, &schemas.Kind{}, serve(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Idempotency-Key") != key || r.Header.Get("Webhook-Id") != key || r.Header.Get("Ce-Id") != "main-1-7" {
				t.Errorf("repair %d: %v, want the key %s", repair, r.Header, key)
			}
		}))
		res := x.Execute(t.Context(), &execution.Attempt{
			Task: &schemas.Task{ID: "main-1-7", Kind: "k", Queue: "q", Payload: []byte(`{"n":1}`), Time: time.Now(), Repair: repair},
			Kind: x.kind, N: 1, Run: 1,
		})
		if res.Outcome != execution.Completed {
			t.Errorf("repair %d: %+v", repair, res)
		}
	}
}

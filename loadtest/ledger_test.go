package loadtest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The ledger judges everything else, so it must be able to say "twice".
func TestLedgerSeesRepeats(t *testing.T) {
	l := &Ledger{Answer: func(id string, n int) int {
		if id == "main-1-3" && n == 1 {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	}}
	post := func(id, fence, body string) int {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Idempotency-Key", id)
		r.Header.Set("Perdure-Fence", fence)
		r.Header.Set("Perdure-Attempt", "1")
		w := httptest.NewRecorder()
		l.ServeHTTP(w, r)
		return w.Code
	}
	for _, c := range []struct {
		id, fence, body string
		want            int
	}{
		{"main-1-1", "5", "a", 204},
		{"main-1-1", "4", "a", 409}, // a lower fence
		{"main-1-2", "1", "b", 204},
		{"main-1-2", "2", "b", 204}, // a repeat
		{"main-1-3", "1", "c", 503},
		{"main-1-3", "2", "c", 204}, // a retry is no repeat
		{"", "1", "d", 400},
	} {
		if got := post(c.id, c.fence, c.body); got != c.want {
			t.Errorf("post %s fence %s: %d, want %d", c.id, c.fence, got, c.want)
		}
	}
	want := Summary{Tasks: 3, Deliveries: 6, Applied: 4, Repeated: 1, Refused: 1, Bodies: 3, BodyTwice: 1}
	if got := l.Summary(); got != want {
		t.Errorf("summary %+v, want %+v", got, want)
	}
	if n := len(l.Of("main-1-2")); n != 2 {
		t.Errorf("%d deliveries of main-1-2, want 2", n)
	}
}

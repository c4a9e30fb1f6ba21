package disputes

// The bank: an HTTP server that can be away for a while, and be wrong.

import (
	"encoding/json"
	"hash/fnv"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Bank is a stand-in for a bank's API: GET /charges/{id}. During an outage it
// answers most calls 503 and some a wrong 422, as a half-deployed backend does.
// It may be used concurrently; the zero Bank is well.
type Bank struct {
	Latency time.Duration // of each answer

	out         atomic.Bool
	calls       atomic.Int64
	unavailable atomic.Int64
	wrong       atomic.Int64
}

// BankCounts is how often the bank was called, and how it answered.
type BankCounts struct{ Calls, Unavailable, Wrong int64 }

// SetOutage starts or ends the outage.
func (b *Bank) SetOutage(on bool) { b.out.Store(on) }

// Counts returns the counts so far.
func (b *Bank) Counts() BankCounts {
	return BankCounts{b.calls.Load(), b.unavailable.Load(), b.wrong.Load()}
}

// ServeHTTP answers GET /charges/{id}.
func (b *Bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, ok := strings.CutPrefix(r.URL.Path, "/charges/")
	if !ok || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	b.calls.Add(1)
	select {
	case <-time.After(b.Latency):
	case <-r.Context().Done():
		return
	}
	switch fate := fateOf(id); {
	case b.out.Load() && fate < 3:
		b.wrong.Add(1)
		answer(w, http.StatusUnprocessableEntity, map[string]any{
			"type": "https://bank.example/problems/unknown-charge", "title": "Unknown charge", "status": 422,
			"detail": "no charge with this id in the shard that was asked",
		})
	case b.out.Load() && fate < 13:
		b.unavailable.Add(1)
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusServiceUnavailable, map[string]any{
			"type": "about:blank", "title": "Service Unavailable", "status": 503,
		})
	default:
		answer(w, http.StatusOK, map[string]any{"charge_id": id, "state": "captured", "refundable": true})
	}
}

// fateOf is 0 to 15, the same for a charge at every call: a retry during the
// outage fails again.
func fateOf(charge string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(charge)) // never fails
	return h.Sum32() % 16
}

func answer(w http.ResponseWriter, status int, body any) {
	kind := "application/json"
	if status >= 400 {
		kind = "application/problem+json"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the asker may be gone: it was killed
}

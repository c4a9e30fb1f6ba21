package loadtest

// An HTTP endpoint that writes down what reached it.

import (
	"io"
	"net/http"
	"strconv"
	"sync"
)

// Ledger is a downstream: it runs whatever it is sent and remembers every
// delivery. It knows nothing of Perdure but the headers that any downstream
// gets. Its methods are safe for concurrent use; the zero value is ready.
type Ledger struct {
	// Answer decides the response to the n-th delivery of a task, n from 1;
	// nil answers 204 always.
	Answer func(id string, n int) (status int)

	mu         sync.Mutex
	deliveries map[string][]Delivery
	bodies     map[string]int
	refused    int
}

// Delivery is one request.
type Delivery struct {
	Fence   int64 // Perdure-Fence
	Attempt int   // Perdure-Attempt
	Applied bool  // false: refused for its fence, or answered with an error
}

// maxBody is the largest payload that the ledger reads, in bytes.
const maxBody = 2 << 20

// ServeHTTP applies the effect once for each task at its highest fence: a
// delivery with a lower fence than one already seen is refused with 409, and a
// delivery of an applied task is remembered but applied again only in name.
func (l *Ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	id := r.Header.Get("Idempotency-Key")
	fence, err1 := strconv.ParseInt(r.Header.Get("Perdure-Fence"), 10, 64)
	attempt, err2 := strconv.Atoi(r.Header.Get("Perdure-Attempt"))
	if id == "" || err1 != nil || err2 != nil {
		http.Error(w, "Idempotency-Key, Perdure-Fence and Perdure-Attempt are required", http.StatusBadRequest)
		return
	}
	w.WriteHeader(l.record(id, string(body), fence, attempt))
}

func (l *Ledger) record(id, body string, fence int64, attempt int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deliveries == nil {
		l.deliveries, l.bodies = map[string][]Delivery{}, map[string]int{}
	}
	seen := l.deliveries[id]
	d := Delivery{Fence: fence, Attempt: attempt}
	for _, before := range seen {
		if fence < before.Fence {
			l.refused++
			l.deliveries[id] = append(seen, d)
			return http.StatusConflict
		}
	}
	status := http.StatusNoContent
	if l.Answer != nil {
		status = l.Answer(id, len(seen)+1)
	}
	if status < 300 {
		d.Applied = true
		l.bodies[body]++
	}
	l.deliveries[id] = append(seen, d)
	return status
}

// Summary is what a run did, as the downstream saw it.
type Summary struct {
	Tasks      int // different task ids
	Deliveries int // requests
	Applied    int // requests whose effect was applied
	Repeated   int // tasks whose effect was applied more than once
	Refused    int // requests refused for a lower fence
	Bodies     int // different payloads applied
	BodyTwice  int // payloads applied more than once
}

// Summary adds up the ledger.
func (l *Ledger) Summary() Summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Summary{Tasks: len(l.deliveries), Bodies: len(l.bodies), Refused: l.refused}
	for _, ds := range l.deliveries {
		applied := 0
		for _, d := range ds {
			if d.Applied {
				applied++
			}
		}
		s.Deliveries += len(ds)
		s.Applied += applied
		if applied > 1 {
			s.Repeated++
		}
	}
	for _, n := range l.bodies {
		if n > 1 {
			s.BodyTwice++
		}
	}
	return s
}

// Of returns the deliveries of one task in the order they came.
func (l *Ledger) Of(id string) []Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Delivery(nil), l.deliveries[id]...)
}

// All returns every task's deliveries, in the order they came.
func (l *Ledger) All() map[string][]Delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string][]Delivery, len(l.deliveries))
	for id, ds := range l.deliveries {
		all[id] = append([]Delivery(nil), ds...)
	}
	return all
}

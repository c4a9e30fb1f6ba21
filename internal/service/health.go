package service

// /healthz, /readyz and /metrics.

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	checkTimeout = 2 * time.Second // of one check
	checkKept    = time.Second     // how long an answer is given again
)

// Health answers whether the process lives and whether it can do its work. Its
// methods may be called concurrently.
type Health struct {
	registry *prometheus.Registry

	mu      sync.Mutex
	checks  []check
	results []CheckResult
	at      time.Time // of results
}

type check struct {
	name   string
	ask    func(context.Context) error
	advice bool // told, but the process is ready without it
}

// CheckResult is one line of /readyz.
type CheckResult struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why it is not
	Advice bool   `json:"advice,omitempty"` // the process is ready all the same
}

// NewHealth returns a Health without checks, whose registry has the Go and
// process collectors.
func NewHealth() *Health {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Health{registry: r}
}

// Registry is where each part registers its metrics.
func (h *Health) Registry() *prometheus.Registry { return h.registry }

// Check adds a named condition for readiness. ask returns why it does not
// hold; it gets two seconds. Its error is shown to anybody who may reach the
// port, so it must hold no secret.
func (h *Health) Check(name string, ask func(context.Context) error) {
	h.add(check{name: name, ask: ask})
}

// Advise adds a condition that /readyz tells and does not depend on: what only
// a side of the process needs must not take all of it out of a balancer.
func (h *Health) Advise(name string, ask func(context.Context) error) {
	h.add(check{name: name, ask: ask, advice: true})
}

func (h *Health) add(c check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, c)
	h.at = time.Time{}
}

// Ready asks every check at once, or returns answers of the last second.
func (h *Health) Ready(ctx context.Context) (ready bool, results []CheckResult) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() || time.Since(h.at) > checkKept {
		h.results = askAll(ctx, h.checks)
		h.at = time.Now()
	}
	ready = true
	for _, r := range h.results {
		ready = ready && (r.Ready || r.Advice)
	}
	return ready, h.results
}

func askAll(ctx context.Context, checks []check) []CheckResult {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	results := make([]CheckResult, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() {
			results[i] = CheckResult{Name: c.name, Ready: true, Advice: c.advice}
			if err := c.ask(ctx); err != nil {
				results[i].Ready, results[i].Reason = false, err.Error()
			}
		})
	}
	wg.Wait()
	return results
}

// Register adds /healthz, /readyz and /metrics. /healthz asks no server: a
// process that is up and waits for Kafka must not be restarted for it.
func (h *Health) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ready, results := h.Ready(r.Context())
		status := http.StatusOK
		if !ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, map[string]any{"ready": ready, "checks": results})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{Registry: h.registry}))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the asker went away.
	_ = json.NewEncoder(w).Encode(v)
}

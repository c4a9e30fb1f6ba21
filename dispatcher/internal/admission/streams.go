package admission

// NDJSON posts at once: each may hold a batch of lines, their answers, and a
// temporary file.

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/api"
)

const (
	// processStreams are the NDJSON posts that a process serves at once, whoever
	// makes them: a batch, its answers and the copies on the way are about 12 MiB
	// at most.
	processStreams = 128
	streamRetry    = 2 * time.Second // a post ends when its client wants, so nobody knows
)

// slots counts what is held; most 0 = any number.
type slots struct {
	mu   sync.Mutex
	held int
	most int
}

func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > 0 && s.held >= s.most {
		return false
	}
	s.held++
	return true
}

func (s *slots) free() {
	s.mu.Lock()
	s.held--
	s.mu.Unlock()
}

// Stream counts an NDJSON post in; done counts it out.
func (p *Producer) Stream() (done func(), problem *api.Problem) {
	if !p.streams.take() {
		return nil, api.NewProblem(http.StatusTooManyRequests, "too-many-streams",
			fmt.Sprintf("token %s has %d NDJSON posts open at this dispatcher, and may have no more", p.name, p.limits.Streams)).
			WithRetryAfter(streamRetry).WithNext("send more lines in fewer posts; more: streams in PERDURE_API_TOKENS_FILE")
	}
	if !p.gate.streams.take() {
		p.streams.free()
		return nil, api.NewProblem(http.StatusServiceUnavailable, "overloaded",
			fmt.Sprintf("this dispatcher serves %d NDJSON posts at once, and may serve no more", processStreams)).
			WithRetryAfter(streamRetry).WithNext("send more lines in fewer posts, or run more dispatchers")
	}
	return func() {
		p.gate.streams.free()
		p.streams.free()
	}, nil
}

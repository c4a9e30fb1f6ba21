package relay

// Why a pass waits for Kafka: the client itself tries again silently.

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// brokerHook remembers the last failure to speak to a broker, for Status.
type brokerHook struct {
	mu    sync.Mutex
	since time.Time // records have been waiting since; zero = none
	cause error     // since then
}

func (h *brokerHook) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since, h.cause = time.Now(), nil
}

func (h *brokerHook) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since, h.cause = time.Time{}, nil
}

// waiting is nil unless records have been under way for over a second.
func (h *brokerHook) waiting() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	waited := time.Since(h.since)
	switch {
	case h.since.IsZero() || waited < time.Second:
		return nil
	case h.cause == nil:
		return fmt.Errorf("kafka: no acknowledgement for %v", waited.Round(time.Second))
	}
	return fmt.Errorf("kafka: no acknowledgement for %v: %w", waited.Round(time.Second), h.cause)
}

func (h *brokerHook) note(broker kgo.BrokerMetadata, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cause = fmt.Errorf("broker %s:%d: %w", broker.Host, broker.Port, err)
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (h *brokerHook) OnBrokerE2E(broker kgo.BrokerMetadata, _ int16, e kgo.BrokerE2E) {
	if err := e.Err(); err != nil {
		h.note(broker, err)
	}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h *brokerHook) OnBrokerConnect(broker kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		h.note(broker, err)
	}
}

// because adds the last failure to an error that only says that time ran out.
func (h *brokerHook) because(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", err, h.cause)
}

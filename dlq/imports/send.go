package imports

// Sending parcels, each within a bounded time.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// sender is a client that sends.
type sender struct {
	cl     *kgo.Client
	adm    *kadm.Client
	within time.Duration
	limits sync.Map // topic → int32
}

// newSender makes one; it does not dial yet.
func newSender(opts []kgo.Opt, within time.Duration) (*sender, error) {
	s := &sender{within: within}
	var err error
	if s.cl, err = kgo.NewClient(append(append([]kgo.Opt{}, opts...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RecordDeliveryTimeout(max(within, time.Second)), // what bounds it is send
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
			if n, is := s.limits.Load(topic); is {
				return n.(int32)
			}
			return defaultLimit
		}),
	)...); err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	s.adm = kadm.NewClient(s.cl)
	return s, nil
}

func (s *sender) close() { s.cl.Close() }

// limit says how large a batch for a topic may be, before the first is made.
func (s *sender) limit(topic string, n int) { s.limits.Store(topic, int32(min(max(n, 512), 1<<30))) }

// errLate is the result of a letter that Kafka did not acknowledge in time.
var errLate = errors.New("no answer from Kafka in time")

// send sends letters in their order and notes each one's result, within a time
// that begins before they were claimed: later none of them leaves this process, and
// who looks for them then finds them, or they were not sent. So a client that was
// late is closed.
func (s *sender) send(ctx context.Context, list []*letter, began time.Time) {
	ctx, cancel := context.WithDeadline(ctx, began.Add(s.within))
	defer cancel()
	s.try(ctx, list)
	// Kafka refuses the batch of one bad record, and with it its neighbours.
	for _, l := range list {
		if refusedFor(l.result) != "" && ctx.Err() == nil {
			s.try(ctx, []*letter{l})
		}
	}
}

func (s *sender) try(ctx context.Context, list []*letter) {
	var mu sync.Mutex
	left, over := len(list), make(chan struct{})
	results := make([]error, len(list))
	for n, l := range list {
		results[n] = errLate
		s.cl.Produce(ctx, l.rec, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			results[n] = err
			if left--; left == 0 {
				close(over)
			}
		})
	}
	if len(list) > 0 {
		select {
		case <-over:
		case <-ctx.Done():
			s.cl.Close()
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for n, l := range list {
		l.result = results[n]
	}
}

// refusedFor is why Kafka surely did not take a record: for what it is, so that it
// was refused at every try. "" where one may have been taken.
func refusedFor(err error) Why {
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return TooLarge
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.PolicyViolation), errors.Is(err, kerr.InvalidTimestamp):
		return Rejected
	}
	return ""
}

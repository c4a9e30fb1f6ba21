package relay

// The term's producer: a client of its own, so that closing it ends everything
// that an ended term still had under way.

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// producer sends the records of a pass. Only the term's goroutine uses it.
type producer struct {
	r      *Relay
	cl     *kgo.Client
	adm    *kadm.Client
	topics topics
}

// newProducer makes a client: idempotent, acks=all, without a retry limit, so
// that the records of a partition are appended in the order of Produce.
func (r *Relay) newProducer(ctx context.Context) (*producer, error) {
	p := &producer{r: r, topics: topics{known: map[string]topic{}}}
	opts := append(append([]kgo.Opt{}, r.deps.Kafka...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ManualFlushing(), // a pass is sent at once, in the largest batches
		kgo.MaxBufferedRecords(1<<20),
		kgo.ProducerBatchMaxBytesFn(p.topics.limit),
		kgo.RecordDeliveryTimeout(r.cfg.Delivery),
		kgo.WithHooks(&r.broker),
	)
	var err error
	if p.cl, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	p.adm = kadm.NewClient(p.cl)
	return p, nil
}

func (p *producer) close() { p.cl.Close() }

// send produces records and waits for every acknowledgement. The records hold
// their partitions and offsets afterwards. errs has the records that failed; err
// says that the wait itself ended.
func (p *producer) send(ctx context.Context, records []*kgo.Record) (errs map[*kgo.Record]error, err error) {
	var mu sync.Mutex
	promise := func(r *kgo.Record, err error) {
		if err == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if errs == nil {
			errs = map[*kgo.Record]error{}
		}
		errs[r] = err
	}
	p.r.broker.begin()
	defer p.r.broker.end()
	for _, r := range records {
		p.cl.Produce(ctx, r, promise)
	}
	if err := p.cl.Flush(ctx); err != nil {
		return nil, fmt.Errorf("kafka: wait for acknowledgements: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	return errs, nil
}

// waitError is trouble that passes or is put right elsewhere: the pass is
// repeated, nothing has moved.
type waitError struct {
	class string // label of the metric
	err   error
}

func (e *waitError) Error() string { return e.err.Error() }
func (e *waitError) Unwrap() error { return e.err }

// What becomes of a pass whose record failed.
const (
	classRetry    = "retry"     // Kafka, or the way to it, is in trouble
	classQueue    = "queue"     // this topic refuses: park its queue
	classTooLarge = "too_large" // ask for the topic's limit again
	classSlow     = "slow"      // not taken within Config.Delivery
)

// classify says what an error of a record means.
func classify(err error) string {
	switch {
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return classTooLarge
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID),
		errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.InvalidTopicException),
		errors.Is(err, kerr.PolicyViolation), errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTimestamp):
		return classQueue
	case errors.Is(err, kgo.ErrRecordTimeout):
		return classSlow
	}
	return classRetry
}

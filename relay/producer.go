package relay

// The term's producer: a client of its own, so that closing it ends everything
// that an ended term still had under way.

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// producer sends the records of a pass, or of one parked queue. Only the term's
// goroutine uses it.
type producer struct {
	r      *Relay
	cl     *kgo.Client
	adm    *kadm.Client
	topics *topics // all producers of a term share it
}

// newProducer makes a client: idempotent, acks=all, without a retry limit, so
// that the records of a partition are appended in the order of Produce.
func (r *Relay) newProducer(known *topics, more ...kgo.Opt) (*producer, error) {
	p := &producer{r: r, topics: known}
	opts := append(append(append([]kgo.Opt{}, r.deps.Kafka...), more...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
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

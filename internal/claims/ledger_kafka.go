package claims

// The ledger on perdure.control: one partition, compacted, a key of its own for
// every number. Under one key for all, a slow raiser's lower number, written
// after a higher one, would let compaction remove the higher one.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ledgerKey begins the record keys on perdure.control, `incarnation/<n>`; the
// value is {"n": n}. There is one for each time that Redis was lost.
const ledgerKey = "incarnation"

type ledgerValue struct {
	N int64 `json:"n"`
}

// KafkaLedger is a Ledger on a compacted topic with one partition. It connects
// only while it is asked, which is at start and when Redis was lost. Its
// methods may be called concurrently.
type KafkaLedger struct {
	topic string
	opts  []kgo.Opt

	mu   sync.Mutex
	next int64 // the first offset not read yet
	last int64 // the highest number read
}

// NewKafkaLedger returns the ledger on topic (kafka.Names.Control). opts are the
// process's client options: brokers, security, client id; no group.
func NewKafkaLedger(topic string, opts ...kgo.Opt) (*KafkaLedger, error) {
	if topic == "" || len(opts) == 0 {
		return nil, errors.New("claims: a ledger needs its topic and the brokers")
	}
	return &KafkaLedger{topic: topic, opts: opts}, nil
}

// Last reads the topic to the end that it had when Last was called; a second
// call goes on where the first one stopped.
func (l *KafkaLedger) Last(ctx context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	start, end, err := l.bounds(ctx)
	if err != nil {
		return 0, err
	}
	if end < l.next { // the topic was made anew
		l.next = 0
	}
	l.next = max(l.next, start)
	if l.next >= end {
		return l.last, nil
	}
	cl, err := kgo.NewClient(append(l.opts[:len(l.opts):len(l.opts)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.topic: {0: kgo.NewOffset().At(l.next)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()))...)
	if err != nil {
		return 0, fmt.Errorf("ledger %s: connect: %w", l.topic, err)
	}
	defer cl.Close()
	for l.next < end {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, fmt.Errorf("ledger %s: read offset %d of %d: %w", l.topic, l.next, end, err)
		}
		var bad error
		fetches.EachRecord(func(r *kgo.Record) {
			l.next = r.Offset + 1
			if name, _, _ := strings.Cut(string(r.Key), "/"); name != ledgerKey || bad != nil {
				return
			}
			var v ledgerValue
			if err := json.Unmarshal(r.Value, &v); err != nil || v.N < 1 {
				bad = fmt.Errorf("ledger %s: offset %d holds %q, want {\"n\": number}", l.topic, r.Offset, r.Value)
				return
			}
			l.last = max(l.last, v.N)
		})
		if bad != nil {
			l.next = 0 // read it again, until someone writes a good one over it
			return 0, bad
		}
	}
	return l.last, nil
}

func (l *KafkaLedger) bounds(ctx context.Context) (start, end int64, err error) {
	cl, err := kgo.NewClient(l.opts...)
	if err != nil {
		return 0, 0, fmt.Errorf("ledger %s: connect: %w", l.topic, err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	one := func(offsets kadm.ListedOffsets, err error) (int64, error) {
		if err != nil {
			return 0, fmt.Errorf("ledger %s: list offsets: %w", l.topic, err)
		}
		o, ok := offsets.Lookup(l.topic, 0)
		if !ok {
			return 0, fmt.Errorf("ledger %s: the topic does not exist", l.topic)
		}
		if o.Err != nil {
			return 0, fmt.Errorf("ledger %s: list offsets: %w", l.topic, o.Err)
		}
		return o.Offset, nil
	}
	if start, err = one(adm.ListStartOffsets(ctx, l.topic)); err != nil {
		return 0, 0, err
	}
	end, err = one(adm.ListEndOffsets(ctx, l.topic))
	return start, end, err
}

// Raise produces n with the client's acks, which must be all (the default).
func (l *KafkaLedger) Raise(ctx context.Context, n int64) error {
	value, err := json.Marshal(ledgerValue{N: n})
	if err != nil {
		return fmt.Errorf("ledger %s: %w", l.topic, err)
	}
	cl, err := kgo.NewClient(append(l.opts[:len(l.opts):len(l.opts)], kgo.RequiredAcks(kgo.AllISRAcks()))...)
	if err != nil {
		return fmt.Errorf("ledger %s: connect: %w", l.topic, err)
	}
	defer cl.Close()
	rec := &kgo.Record{Topic: l.topic, Partition: 0, Key: fmt.Appendf(nil, "%s/%d", ledgerKey, n), Value: value}
	if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("ledger %s: raise to %d: %w", l.topic, n, err)
	}
	return nil
}

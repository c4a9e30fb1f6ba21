package run

// Kafka alone, at the same rate: what no path through it can beat.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Baseline produces records to a topic of its own and consumes them in the same
// process: acks=all, no linger, as many partitions as the queue.
type Baseline struct {
	Opts  []kgo.Opt // how to connect
	Topic string    // begins the topics' names
}

// besideRate is how many records a second at most ask, while the load runs, how long Kafka
// takes then: a twentieth of the load, or fewer.
const besideRate = 200

// measure offers records of the payload's size at o's rate for d and adds to h
// how long each took from when it was due to when it was polled. part names its
// topic: one that was just deleted cannot be made again at once.
func (b *Baseline) measure(ctx context.Context, part string, o Options, d time.Duration, p *Payloads, h *hdrhistogram.Histogram) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("kafka itself, %s the load: %w", part, err)
		}
	}()
	topic := b.Topic + "-" + part
	cl, err := kgo.NewClient(append(append([]kgo.Opt(nil), b.Opts...),
		kgo.DefaultProduceTopic(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.ProducerLinger(0), kgo.FetchMaxWait(time.Second))...)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	// Also one whose making was not waited for until its end.
	defer func() {
		if _, derr := adm.DeleteTopic(context.WithoutCancel(ctx), topic); derr != nil && !errors.Is(derr, kerr.UnknownTopicOrPartition) {
			err = errors.Join(err, fmt.Errorf("delete topic %s: %w", topic, derr))
		}
	}()
	if _, err := adm.CreateTopic(ctx, int32(o.Partitions), -1, nil, topic); err != nil {
		return fmt.Errorf("make topic %s: %w", topic, err)
	}
	cl.AddConsumeTopics(topic)
	// The first records also pay for connections, and for partitions of a new
	// topic that have no leader yet: not counted, and sent to every partition.
	cold := max(100, 20*o.Partitions)
	if err := cl.ProduceSync(ctx, records(cold, p)...).FirstErr(); err != nil {
		return fmt.Errorf("produce: %w", err)
	}
	if err := poll(ctx, cl, h, time.Now(), cold); err != nil {
		return err
	}
	n := max(1, int(o.Rate*d.Seconds()))
	polled := make(chan error, 1)
	start := time.Now()
	pctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	go func() { polled <- poll(pctx, cl, h, start, n) }()
	if err := produce(pctx, cl, o.Rate, n, start, p); err != nil {
		cancel()
		return errors.Join(err, <-polled)
	}
	return <-polled
}

// records have keys of four bytes: poll does not take them for times.
func records(n int, p *Payloads) []*kgo.Record {
	recs := make([]*kgo.Record, n)
	for i := range recs {
		recs[i] = &kgo.Record{Key: binary.BigEndian.AppendUint32(nil, uint32(i)), Value: p.Append(nil, i)}
	}
	return recs
}

// produce sends record i at start + i/rate; its key is when it was due.
func produce(ctx context.Context, cl *kgo.Client, rate float64, n int, start time.Time, p *Payloads) error {
	var mu sync.Mutex
	var failed error
	for i := 0; i < n; {
		due := time.Duration(float64(i) / rate * 1e9)
		if wait := time.Until(start.Add(due)); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		key := binary.BigEndian.AppendUint64(nil, uint64(due))
		cl.Produce(ctx, &kgo.Record{Key: key, Value: p.Append(nil, i)}, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
		})
		i++
	}
	if err := cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil {
		return fmt.Errorf("produce: %w", failed)
	}
	return nil
}

// poll reads until n records are here, and records those that say when they were
// due.
func poll(ctx context.Context, cl *kgo.Client, h *hdrhistogram.Histogram, start time.Time, n int) error {
	for got := 0; got < n; {
		f := cl.PollFetches(ctx)
		now := time.Since(start)
		if err := f.Err0(); err != nil {
			return fmt.Errorf("%d of %d records came back: %w", got, n, err)
		}
		f.EachRecord(func(r *kgo.Record) {
			got++
			if len(r.Key) == 8 {
				record(h, int64(now)-int64(binary.BigEndian.Uint64(r.Key)))
			}
		})
	}
	return nil
}

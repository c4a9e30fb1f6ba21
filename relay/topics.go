package relay

// What is known of topics: whether they are there, and how large a record may be.

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/kafka"
)

// topic is what the brokers said about one.
type topic struct {
	limit int32 // max.message.bytes
	err   error // why nothing can be produced to it; nil = well
	until time.Time
}

// How long an answer holds. A broken topic is looked at again soon.
const (
	topicWell   = time.Minute
	topicBroken = time.Second
)

// topics is read by the client's goroutines too.
type topics struct {
	mu    sync.Mutex
	known map[string]topic
}

func newTopics() *topics { return &topics{known: map[string]topic{}} }

// limit is how many bytes a batch for a topic may have. The client keeps the
// answer for its life; see term.reopen.
func (t *topics) limit(name string) int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k, ok := t.known[name]; ok && k.err == nil {
		return min(max(k.limit, 512), 1<<30)
	}
	return kafka.MaxTaskRecord
}

func (t *topics) get(name string) (topic, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[name]
	return k, ok && time.Now().Before(k.until)
}

func (t *topics) set(name string, k topic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[name] = k
}

// ask makes sure that something is known of each topic. Its error is about
// Kafka as a whole.
func (p *producer) ask(ctx context.Context, names map[string]struct{}) error {
	var stale []string
	for name := range names {
		if _, ok := p.topics.get(name); !ok {
			stale = append(stale, name)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	p.r.broker.begin()
	defer p.r.broker.end()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	details, err := p.adm.ListTopics(ctx, stale...)
	if err != nil {
		return &waitError{classRetry, fmt.Errorf("kafka: ask for topics: %w", p.r.broker.because(err))}
	}
	limits, err := p.limits(ctx, stale)
	if err != nil {
		return err
	}
	for _, name := range stale {
		k := topic{limit: limits[name], until: time.Now().Add(topicWell)}
		d, ok := details[name]
		switch {
		case !ok:
			k.err = kerr.UnknownTopicOrPartition
		case d.Err != nil && kerr.IsRetriable(d.Err) && !errors.Is(d.Err, kerr.UnknownTopicOrPartition):
			// No leader for a moment: producing finds out.
		case d.Err != nil:
			k.err = d.Err
		case len(d.Partitions) == 0:
			k.err = kerr.UnknownTopicOrPartition
		}
		if k.err != nil {
			k.until = time.Now().Add(topicBroken)
		}
		p.topics.set(name, k)
	}
	return nil
}

// limits reads max.message.bytes. Where that is not allowed, ours is assumed,
// less what the broker has refused since.
func (p *producer) limits(ctx context.Context, names []string) (map[string]int32, error) {
	limits := make(map[string]int32, len(names))
	for _, name := range names {
		limits[name] = p.r.assumed(name)
	}
	configs, err := p.configs(ctx, names)
	if err != nil {
		return nil, &waitError{classRetry, fmt.Errorf("kafka: ask for the limits of topics: %w", p.r.broker.because(err))}
	}
	for _, c := range configs {
		if c.Err != nil {
			continue
		}
		for _, kv := range c.Configs {
			if kv.Key != "max.message.bytes" || kv.Value == nil {
				continue
			}
			if n, err := strconv.ParseInt(*kv.Value, 10, 32); err == nil {
				limits[c.Name] = int32(n)
			}
		}
	}
	return limits, nil
}

// inSyncWanted reads min.insync.replicas, 0 where that is not allowed.
func (p *producer) inSyncWanted(ctx context.Context, names []string) map[string]int {
	wanted := map[string]int{}
	configs, err := p.configs(ctx, names)
	if err != nil {
		return wanted
	}
	for _, c := range configs {
		for _, kv := range c.Configs {
			if c.Err == nil && kv.Key == "min.insync.replicas" && kv.Value != nil {
				wanted[c.Name], _ = strconv.Atoi(*kv.Value)
			}
		}
	}
	return wanted
}

// configs asks for all topics at once, and one by one where one of them is not
// ours to ask for; that one is left out.
func (p *producer) configs(ctx context.Context, names []string) (kadm.ResourceConfigs, error) {
	configs, err := p.adm.DescribeTopicConfigs(ctx, names...)
	var denied *kadm.AuthError
	if !errors.As(err, &denied) {
		return configs, err
	}
	configs = nil
	for _, name := range names {
		c, err := p.adm.DescribeTopicConfigs(ctx, name)
		if errors.As(err, &denied) {
			continue
		}
		if err != nil {
			return nil, err
		}
		configs = append(configs, c...)
	}
	return configs, nil
}

// assumed is the limit of a topic whose configuration may not be read.
func (r *Relay) assumed(name string) int32 {
	if n, ok := r.refused[name]; ok {
		return n
	}
	return kafka.MaxTaskRecord
}

// refuse learns from MESSAGE_TOO_LARGE: the topic's limit is asked for again,
// and half is assumed where it cannot be read. The next client knows. again says
// that this happened before.
func (p *producer) refuse(name string) (again bool) {
	k, _ := p.topics.get(name)
	_, again = p.r.refused[name]
	p.r.refused[name] = max(k.limit/2, 64<<10)
	p.topics.set(name, topic{})
	return again
}

// reopen makes a client that knows the present limits and has nothing under way.
func (t *term) reopen() error {
	out, err := t.r.newProducer(t.out.topics, kgo.ManualFlushing())
	if err != nil {
		return err
	}
	t.out.close()
	t.out = out
	return nil
}

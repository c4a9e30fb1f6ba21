package relay

// perdure.control, key relayed/<source>: the highest id that Kafka has, kept
// where a restore of the database does not reach it.
//
// It may lag by up to a second. It is needed only where the database comes back
// without commits that it had reported as flushed, on the same timeline and
// cluster: a restored disk snapshot, a disk that lies about flushing. Everything
// else that loses commits (a promoted standby, a point-in-time restore, a dump)
// changes the timeline or the system identifier, which the cursor knows. While
// this process lives it remembers its highest id itself and compares that too. So
// ids could be used twice only if, within one second, a batch is relayed, the
// relay dies, and the database forgets that same second. Writing it before every
// batch would close that, at a round trip to Kafka in the latency of every task.
//
// It is never ahead of the database: ids come from rows that were flushed.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// controlEvery bounds the lag, and the growth of the topic between compactions.
const controlEvery = time.Second

// relayed is the value of relayed/<source>.
type relayed struct {
	Generation int    `json:"generation"`
	Seq        int64  `json:"seq"`
	SystemID   string `json:"system_id"`
	Database   uint32 `json:"database"` // oid; 0: written before it was noted

	at time.Time // when it was written, by the clock of the relay that did
}

func (r *Relay) controlKey() string { return "relayed/" + r.cfg.Source }

// control writes the key through a client that passes do not wait for: a broken
// control topic must not stall the outbox.
type control struct {
	r  *Relay
	cl *kgo.Client
	is identity

	mu      sync.Mutex
	known   int64     // what the topic had when the term began
	begun   time.Time // of the last write
	taken   time.Time // when the last that was acknowledged began
	busy    bool      // it is under way
	written int64     // highest id that is acknowledged
}

// offer writes seq if it is new and the last write is long enough ago.
func (c *control) offer(seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy || seq <= c.written || time.Since(c.begun) < controlEvery {
		return
	}
	c.write(seq)
}

// takes reports whether Kafka acknowledged a write that began after since. Where it
// did not, the next answer may be another: the same id is written again.
func (c *control) takes(ctx context.Context, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken.After(since) {
		return true
	}
	if !c.busy && ctx.Err() == nil { // only a holder of the lease may
		c.write(max(c.known, c.written))
	}
	return false
}

// write is called with the lock held.
func (c *control) write(seq int64) {
	began := time.Now()
	c.busy, c.begun = true, began
	c.cl.Produce(context.Background(), c.record(seq), func(_ *kgo.Record, err error) {
		c.ended(seq, err)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.taken = began
		}
	})
}

// last writes seq now, and waits for it a little: the term ends. Only a holder of
// the lease may: one that lost it would write over a later id of its successor.
func (c *control) last(ctx context.Context, seq int64) {
	c.mu.Lock()
	written := c.written
	c.mu.Unlock()
	if seq <= written {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c.ended(seq, c.cl.ProduceSync(ctx, c.record(seq)).FirstErr())
}

// ended notes what became of a write. A failure only lengthens the lag.
func (c *control) ended(seq int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	if err == nil {
		c.written = max(c.written, seq)
		return
	}
	c.r.metrics.produceErrors.WithLabelValues("control").Inc()
	c.r.log.Warn("cannot write the highest relayed id, trying again", "topic", c.r.deps.Names.Control(), "cause", err)
}

func (c *control) record(seq int64) *kgo.Record {
	value := fmt.Appendf(nil, `{"generation":%d,"seq":%d,"system_id":%q,"database":%d}`, c.is.generation, seq, c.is.systemID, c.is.database)
	return &kgo.Record{Topic: c.r.deps.Names.Control(), Key: []byte(c.r.controlKey()), Value: value}
}

// readControl returns what Kafka has of this source, nil if nothing.
func (r *Relay) readControl(ctx context.Context, adm *kadm.Client) (*relayed, error) {
	name := r.deps.Names.Control()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	failed := func(err error) error {
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("kafka: topic %s is missing, without it a restored database cannot be noticed: run `perdure topics plan`", name)
		}
		return fmt.Errorf("kafka: read %s: %w", name, r.broker.because(err))
	}
	r.broker.begin()
	defer r.broker.end()
	ends, err := adm.ListEndOffsets(ctx, name)
	if err != nil {
		return nil, failed(err)
	}
	end, ok := ends.Lookup(name, 0)
	if !ok {
		return nil, failed(kerr.UnknownTopicOrPartition)
	}
	if end.Err != nil {
		return nil, failed(end.Err)
	}
	starts, err := adm.ListStartOffsets(ctx, name)
	if err != nil {
		return nil, failed(err)
	}
	start, _ := starts.Lookup(name, 0)
	if start.Offset >= end.Offset {
		return nil, nil
	}

	opts := append(append([]kgo.Opt{}, r.deps.Kafka...), kgo.WithHooks(&r.broker), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		name: {0: kgo.NewOffset().AtStart()},
	}))
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, failed(err)
	}
	defer cl.Close()
	var last *relayed
	var spoilt error // the newest value is not ours
	for at := start.Offset; at < end.Offset; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, failed(err)
		}
		for _, e := range fetches.Errors() {
			return nil, failed(e.Err)
		}
		for rec := range fetches.RecordsAll() {
			at = rec.Offset + 1
			if string(rec.Key) != r.controlKey() {
				continue
			}
			v := &relayed{at: rec.Timestamp}
			last, spoilt = v, nil
			if json.Unmarshal(rec.Value, v) != nil {
				spoilt = halt(HaltSequence, "write a right record with that key, or run `perdure outbox reset`",
					"%s offset %d: key %s has a value that is not ours", name, rec.Offset, rec.Key)
			}
		}
	}
	if spoilt != nil {
		return nil, spoilt
	}
	return last, nil
}

package blocks

// View: the blocks that stand, as far as perdure.control was read.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// View follows the topic. Its methods may be called concurrently.
type View struct {
	topic string
	ends  *kadm.Client
	opts  []kgo.Opt
	log   *slog.Logger

	mu     sync.Mutex
	next   int64 // the first offset that was not read
	lines  map[Line][]*standing
	byName map[string]*standing // queue/letter
	counts map[string]int       // blocks of each of the View's queues
	bad    map[string]error     // queue/letter → why its block cannot be read
	moved  chan struct{}        // closed when next moves
}

type standing struct {
	Block
	line Line
}

// NewView returns a View of the blocks of queues. cl is asked for the topic's end,
// and stays the caller's. opts are the process's client options, for a client that
// reads: brokers, security, client id; no group.
func NewView(topic string, queues []string, log *slog.Logger, cl *kgo.Client, opts ...kgo.Opt) *View {
	v := &View{topic: topic, ends: kadm.NewClient(cl), opts: opts, log: log, counts: map[string]int{}, bad: map[string]error{},
		lines: map[Line][]*standing{}, byName: map[string]*standing{}, moved: make(chan struct{})}
	for _, q := range queues {
		v.counts[q] = 0
	}
	return v
}

// Run reads the topic until ctx ends, and then returns nil. Where it cannot read on,
// it tries again: Sync and Reach wait meanwhile, and with them what depends on them.
func (v *View) Run(ctx context.Context) error {
	for {
		err := v.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		v.log.Warn("blocks: cannot read on, trying again; keys with on_dead: block wait", "topic", v.topic, "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow reads from v.next on.
func (v *View) follow(ctx context.Context) error {
	v.mu.Lock()
	from := kgo.NewOffset().At(v.next)
	if v.next == 0 {
		from = kgo.NewOffset().AtStart()
	}
	v.mu.Unlock()
	cl, err := kgo.NewClient(append(v.opts[:len(v.opts):len(v.opts)],
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{v.topic: {0: from}}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond), kgo.KeepControlRecords())...)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer cl.Close()
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		v.take(fetches)
	}
}

func (v *View) take(fetches kgo.Fetches) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		v.apply(r)
		v.next = r.Offset + 1
	})
	close(v.moved)
	v.moved = make(chan struct{})
}

// apply notes one record; v.mu is held.
func (v *View) apply(r *kgo.Record) {
	b, end, ok, err := parse(r)
	if _, mine := v.counts[b.Queue]; !ok || !mine {
		return
	}
	name := b.Queue + "/" + b.Letter
	delete(v.bad, name)
	s := v.byName[name]
	switch {
	case err != nil:
		v.bad[name] = err
	case end && s != nil:
		v.drop(s)
	case end || s != nil:
	default:
		s = &standing{Block: b, line: LineOf(b.Queue, strings.SplitN(b.Letter, "@", 2)[0], b.Key)}
		v.byName[name] = s
		v.lines[s.line] = append(v.lines[s.line], s)
		v.counts[b.Queue]++
	}
}

func (v *View) drop(s *standing) {
	delete(v.byName, s.Queue+"/"+s.Letter)
	v.counts[s.Queue]--
	left := slices.DeleteFunc(v.lines[s.line], func(o *standing) bool { return o == s })
	if v.lines[s.line] = left; len(left) == 0 {
		delete(v.lines, s.line)
	}
}

// Blocks returns the letters that block a line, sorted, what is no letter last.
func (v *View) Blocks(line Line) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	of := v.lines[line]
	if len(of) == 0 {
		return nil
	}
	letters := make([]string, 0, len(of))
	for _, s := range of {
		letters = append(letters, s.Letter)
	}
	slices.SortFunc(letters, func(a, b string) int {
		if x := isLift(a); x != isLift(b) {
			if x {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	return letters
}

// Count is the number of blocks of a queue.
func (v *View) Count(queue string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.counts[queue]
}

// Sync waits until all is read that stood on the topic when it was called. That a
// topic's last record can be read is Kafka's promise: it stands in the active
// segment, which is never compacted.
func (v *View) Sync(ctx context.Context) error {
	end, err := v.end(ctx)
	if err != nil {
		return err
	}
	return v.Reach(ctx, end)
}

// Reach waits until all below offset is read. While a block among it cannot be read
// it is an error: nobody knows which key it is of, and a task might overtake.
func (v *View) Reach(ctx context.Context, offset int64) error {
	for {
		v.mu.Lock()
		next, moved := v.next, v.moved
		var bad error
		for _, bad = range v.bad {
			break
		}
		v.mu.Unlock()
		if next >= offset {
			return bad
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("blocks: read %s up to offset %d, at %d: %w", v.topic, offset, next, ctx.Err())
		}
	}
}

// end is the topic's present end.
func (v *View) end(ctx context.Context) (int64, error) {
	ends, err := v.ends.ListEndOffsets(ctx, v.topic)
	if err != nil {
		return 0, fmt.Errorf("blocks: end of %s: %w", v.topic, err)
	}
	o, ok := ends.Lookup(v.topic, 0)
	if !ok {
		o.Err = kerr.UnknownTopicOrPartition
	}
	if errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
		return 0, fmt.Errorf("blocks: topic %s is missing: run `perdure topics plan`", v.topic)
	}
	if o.Err != nil {
		return 0, fmt.Errorf("blocks: end of %s: %w", v.topic, o.Err)
	}
	return o.Offset, nil
}

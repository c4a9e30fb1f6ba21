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

// Place is a partition of a queue's topic.
type Place struct {
	Queue     string
	Partition int32
}

// View follows the topic. Its methods may be called concurrently.
//
// For the owner of a partition a block ends only by its own word: who was the
// owner, and does not know that it no longer is, must not act on a lift of its
// successor. Such a block is a ghost, until the partition is assigned anew.
type View struct {
	topic  string
	opts   []kgo.Opt
	queues map[string]bool
	log    *slog.Logger

	mu     sync.Mutex
	next   int64 // the first offset that was not read
	lines  map[Line]map[string]*standing
	byName map[string]*standing // queue/letter
	owned  map[Place]string     // by which owner
	moved  chan struct{}        // closed when next moves
}

type standing struct {
	Block
	line  Line
	ghost int64 // offset at which another ended it, 0 = nobody did
}

// NewView returns a View of the blocks of queues. opts are the process's client
// options: brokers, security, client id; no group.
func NewView(topic string, queues []string, log *slog.Logger, opts ...kgo.Opt) *View {
	v := &View{topic: topic, opts: opts, queues: map[string]bool{}, log: log,
		lines: map[Line]map[string]*standing{}, byName: map[string]*standing{}, owned: map[Place]string{}, moved: make(chan struct{})}
	for _, q := range queues {
		v.queues[q] = true
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
		if err := v.take(fetches); err != nil {
			return err
		}
	}
}

func (v *View) take(fetches kgo.Fetches) (err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fetches.EachRecord(func(r *kgo.Record) {
		if err != nil {
			return
		}
		if err = v.apply(r); err == nil {
			v.next = r.Offset + 1
		}
	})
	close(v.moved)
	v.moved = make(chan struct{})
	return err
}

func (v *View) apply(r *kgo.Record) error {
	b, end, by, ok, err := parse(r)
	if err != nil || !ok || !v.queues[b.Queue] {
		return err
	}
	name := b.Queue + "/" + b.Letter
	s := v.byName[name]
	switch {
	case end && s == nil:
	case end:
		if owner, mine := v.owned[Place{b.Queue, s.Partition}]; mine && owner != by {
			s.ghost = r.Offset
			return nil
		}
		v.drop(s)
	case s != nil:
		s.ghost = 0
	default:
		s = &standing{Block: b, line: LineOf(b.Queue, strings.SplitN(b.Letter, "@", 2)[0], b.Key)}
		v.byName[name] = s
		if v.lines[s.line] == nil {
			v.lines[s.line] = map[string]*standing{}
		}
		v.lines[s.line][b.Letter] = s
	}
	return nil
}

func (v *View) drop(s *standing) {
	delete(v.byName, s.Queue+"/"+s.Letter)
	delete(v.lines[s.line], s.Letter)
	if len(v.lines[s.line]) == 0 {
		delete(v.lines, s.line)
	}
}

// Blocks returns the letters that block a line, sorted.
func (v *View) Blocks(line Line) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	of := v.lines[line]
	if len(of) == 0 {
		return nil
	}
	letters := make([]string, 0, len(of))
	for l := range of {
		letters = append(letters, l)
	}
	slices.Sort(letters)
	return letters
}

// Count is the number of blocks of a queue.
func (v *View) Count(queue string) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.byName {
		if s.Queue == queue {
			n++
		}
	}
	return n
}

// Own says that a partition is assigned to owner. It may not act before Begin.
func (v *View) Own(p Place, owner string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.owned[p] = owner
}

// Begin waits until every block that stood when it was called is known: what
// earlier owners wrote. From then on owner goes by its own word alone.
func (v *View) Begin(ctx context.Context, places []Place) error {
	end, err := v.end(ctx)
	if err != nil {
		return err
	}
	if err := v.Reach(ctx, end); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.byName {
		if s.ghost > 0 && s.ghost < end && slices.Contains(places, Place{s.Queue, s.Partition}) {
			v.drop(s)
		}
	}
	return nil
}

// Leave says that a partition is owner's no longer.
func (v *View) Leave(p Place, owner string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.owned[p] != owner {
		return // a later assignment has it
	}
	delete(v.owned, p)
	for _, s := range v.byName {
		if s.ghost > 0 && (Place{s.Queue, s.Partition}) == p {
			v.drop(s)
		}
	}
}

// Sync waits until all is read that stood on the topic when it was called.
func (v *View) Sync(ctx context.Context) error {
	end, err := v.end(ctx)
	if err != nil {
		return err
	}
	return v.Reach(ctx, end)
}

// Reach waits until all below offset is read.
func (v *View) Reach(ctx context.Context, offset int64) error {
	for {
		v.mu.Lock()
		next, moved := v.next, v.moved
		v.mu.Unlock()
		if next >= offset {
			return nil
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
	cl, err := kgo.NewClient(v.opts...)
	if err != nil {
		return 0, fmt.Errorf("blocks: connect: %w", err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, v.topic)
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

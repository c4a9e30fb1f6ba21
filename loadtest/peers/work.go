package main

// The work that every system is given, and what a run of it says.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/loadtest/run"
	"github.com/perdure/perdure/loadtest/run/usage"
)

// work is the same for all.
type work struct {
	Tasks, Warmup, Payload, Batch, Producers, Concurrency int
	Entropy                                               string

	held   bool          // a transaction keeps its snapshot open meanwhile; see held.go
	over   time.Duration // the tasks are spread over this time; see held_over.go
	settle time.Duration // with over: what is left is looked at so long after the last
	table  table         // with over: whose size is told
}

func (w *work) flags(fs *flag.FlagSet) {
	d := run.Defaults()
	fs.IntVar(&w.Tasks, "tasks", d.Tasks, "tasks in a run")
	fs.IntVar(&w.Warmup, "warmup", d.Warmup, "tasks before those that are measured")
	fs.IntVar(&w.Payload, "payload", d.Payload, "bytes of a task's payload")
	fs.StringVar(&w.Entropy, "entropy", d.Entropy, "of the payload: random or text")
	fs.IntVar(&w.Batch, "batch", d.Batch, "tasks in one insert (Asynq has none)")
	fs.IntVar(&w.Producers, "producers", d.Producers, "that insert at once (Asynq: eight times as many, as each waits for every task)")
	fs.IntVar(&w.Concurrency, "concurrency", 0, "of the workers; 0 = what suits each best")
}

func (w *work) check() error {
	o := run.Defaults()
	o.Tasks, o.Warmup, o.Payload, o.Batch, o.Producers, o.Entropy = w.Tasks, w.Warmup, w.Payload, w.Batch, w.Producers, w.Entropy
	if w.Concurrency < 0 {
		return errors.New("concurrency: want 0 or more")
	}
	return o.Check()
}

func (w *work) args() []string {
	return []string{
		"-tasks", strconv.Itoa(w.Tasks), "-warmup", strconv.Itoa(w.Warmup), "-payload", strconv.Itoa(w.Payload), "-entropy", w.Entropy,
		"-batch", strconv.Itoa(w.Batch), "-producers", strconv.Itoa(w.Producers), "-concurrency", strconv.Itoa(w.Concurrency),
	}
}

// result is one run.
type result struct {
	Tasks          int                `json:"tasks"`
	Seconds        float64            `json:"seconds"` // from the first insert until all are done
	EnqueueSeconds float64            `json:"enqueue_seconds"`
	CPU            map[string]float64 `json:"cpu_us_per_task"` // by process

	over *side // where the work was spread over a time
}

func (r *result) rate() float64 { return float64(r.Tasks) / r.Seconds }

func (r *result) cpu() (sum float64) {
	for _, v := range r.CPU {
		sum += v
	}
	return sum
}

// seen counts each task's runs.
type seen struct {
	times    []atomic.Int32
	distinct atomic.Int64
	again    atomic.Int64
}

func (s *seen) ran(number string) error {
	n, err := strconv.Atoi(number)
	if err != nil || n >= len(s.times) {
		return fmt.Errorf("task %q was never sent", number)
	}
	if s.times[n].Add(1) > 1 {
		s.again.Add(1)
		return nil
	}
	s.distinct.Add(1)
	return nil
}

// passed is how many have run. Twice is an error.
func (s *seen) passed(context.Context) (int, error) {
	if n := s.again.Load(); n > 0 {
		return 0, fmt.Errorf("%d tasks ran again", n)
	}
	return int(s.distinct.Load()), nil
}

// peer is a system under the work.
type peer struct {
	insert  func(ctx context.Context, first, n int) error
	settled func(ctx context.Context) (bool, error) // everything that ran is durably done
	work    func() error                            // start working; nil = it works from the start
	watch   func(ctx context.Context) error         // notes what has run; nil = its workers do
	batch   int
	senders int
}

const patience = time.Minute

// measure warms p up and gives it the work.
func (w *work) measure(ctx context.Context, p peer, s *seen, srv servers) (*result, error) {
	meter, err := usage.New(srv.targets()...)
	if err != nil {
		return nil, err
	}
	if missing := meter.Missing(); len(missing) > 0 {
		return nil, fmt.Errorf("not all CPU time can be counted: %v", missing)
	}
	if p.work == nil {
		if err := p.send(ctx, 0, w.Warmup); err != nil {
			return nil, err
		}
		if err := p.settle(ctx, s, w.Warmup); err != nil {
			return nil, err
		}
	}
	before, err := meter.Read()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := p.send(ctx, w.Warmup, w.Warmup+w.Tasks); err != nil {
		return nil, err
	}
	sent := time.Since(start)
	want := w.Warmup + w.Tasks
	if p.work != nil {
		want = w.Tasks
		if err := p.work(); err != nil {
			return nil, err
		}
	}
	if err := p.settle(ctx, s, want); err != nil {
		return nil, err
	}
	done := time.Since(start)
	after, err := meter.Read()
	if err != nil {
		return nil, err
	}
	if n := s.again.Load(); n > 0 {
		return nil, fmt.Errorf("%d tasks ran again", n)
	}
	res := &result{Tasks: w.Tasks, Seconds: done.Seconds(), EnqueueSeconds: sent.Seconds(), CPU: map[string]float64{}}
	for name, v := range after.Since(before) {
		res.CPU[name] = v.Seconds() * 1e6 / float64(w.Tasks)
	}
	return res, nil
}

// send inserts the tasks from..to.
func (p *peer) send(ctx context.Context, from, to int) error {
	var mu sync.Mutex
	next := from
	eg, ctx := errgroup.WithContext(ctx)
	for range p.senders {
		eg.Go(func() error {
			for {
				mu.Lock()
				first := next
				next = min(to, first+p.batch)
				n := next - first
				mu.Unlock()
				if n == 0 {
					return nil
				}
				if err := p.insert(ctx, first, n); err != nil {
					return fmt.Errorf("insert tasks %d to %d: %w", first, first+n-1, err)
				}
			}
		})
	}
	return eg.Wait()
}

// settle waits until n tasks have run and are settled.
func (p *peer) settle(ctx context.Context, s *seen, n int) error {
	last, moved := int64(-1), time.Now()
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for {
		if p.watch != nil {
			if err := p.watch(ctx); err != nil {
				return err
			}
		}
		have := s.distinct.Load()
		if have != last {
			last, moved = have, time.Now()
		}
		if have >= int64(n) {
			if ok, err := p.settled(ctx); ok || err != nil {
				return err
			}
		}
		if time.Since(moved) > patience {
			return fmt.Errorf("given up: %d of %d tasks ran", have, n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newSeen(w work) *seen { return &seen{times: make([]atomic.Int32, w.Warmup+w.Tasks)} }

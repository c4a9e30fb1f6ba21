package run

// The producers.

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/perdure/perdure/dispatcher/client"
)

// generator hands out task numbers and sends them.
type generator struct {
	*Tally
	opts     Options
	payloads *Payloads
	kinds    []string
	enqueue  func(context.Context, []client.Task) error

	mu   sync.Mutex
	next int // the first number that is not handed out
	end  int // the first that is not of this phase
}

// phase sends the tasks from..to, closed or open, and returns when all are
// accepted.
func (g *generator) phase(ctx context.Context, from, to int, take func(context.Context, int) (int, int, error)) error {
	g.next, g.end = from, to
	eg, ctx := errgroup.WithContext(ctx)
	for range g.opts.Producers {
		eg.Go(func() error { return g.produce(ctx, take) })
	}
	return eg.Wait()
}

// produce sends batch after batch until take has no more.
func (g *generator) produce(ctx context.Context, take func(context.Context, int) (int, int, error)) error {
	tasks := make([]client.Task, 0, g.opts.Batch)
	buf := make([]byte, 0, g.opts.Batch*g.opts.Payload)
	for {
		first, n, err := take(ctx, g.opts.Batch)
		if err != nil || n == 0 {
			return err
		}
		tasks, buf = tasks[:0], buf[:0]
		for i := first; i < first+n; i++ {
			at := len(buf)
			buf = g.payloads.Append(buf, i)
			tasks = append(tasks, client.Task{Kind: g.kinds[i%len(g.kinds)], Payload: client.Raw(buf[at:])})
		}
		if err := g.enqueue(ctx, tasks); err != nil {
			return fmt.Errorf("enqueue tasks %d to %d: %w", first, first+n-1, err)
		}
		now := g.now()
		for i := first; i < first+n; i++ {
			g.accepted[i] = now
		}
		g.sent.Add(int64(n))
	}
}

// closed takes up to n tasks as soon as there is room for them. They are due
// when they are taken: nobody asked for them before.
func (g *generator) closed(ctx context.Context, n int) (first, count int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n = min(n, g.end-g.next)
	if g.room != nil && n > 0 {
		if n, err = g.reserve(ctx, n); err != nil {
			return 0, 0, err
		}
	}
	first = g.next
	g.next += n
	now := g.now()
	for i := first; i < g.next; i++ {
		g.due[i] = now
	}
	return first, n, nil
}

// reserve waits for room for one task and takes what there is, up to n.
func (g *generator) reserve(ctx context.Context, n int) (got int, err error) {
	select {
	case g.room <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for got = 1; got < n; got++ {
		select {
		case g.room <- struct{}{}:
		default:
			return got, nil
		}
	}
	return got, nil
}

// open returns the taking of an open loop that starts now: task i is due at
// i / rate, and keeps that time however late it is taken. What is due is taken once the
// first of it has been due for Options.Linger.
func (g *generator) open(from int) func(context.Context, int) (int, int, error) {
	start := g.now()
	dueAt := func(i int) int64 { return start + int64(float64(i-from)/g.opts.Rate*1e9) }
	return func(ctx context.Context, n int) (first, count int, err error) {
		for {
			g.mu.Lock()
			if g.next == g.end {
				g.mu.Unlock()
				return 0, 0, nil
			}
			now := g.now()
			first = g.next
			wait := time.Duration(dueAt(first)-now) + g.opts.Linger
			for wait <= 0 && g.next < g.end && count < n && dueAt(g.next) <= now {
				g.due[g.next] = dueAt(g.next)
				g.next++
				count++
			}
			g.mu.Unlock()
			if count > 0 {
				return first, count, nil
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return 0, 0, ctx.Err()
			}
		}
	}
}

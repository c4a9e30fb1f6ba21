package dispatcher

// Intake of single posts: those without a key are gathered for a moment and
// written together; those with one run singly, so that a key that another
// transaction holds delays nobody else.

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/perdure/perdure/dispatcher/client"
	"github.com/perdure/perdure/internal/api"
)

const (
	gatherFor    = time.Millisecond // after the first post of a batch
	gatherTasks  = 500              // most tasks of a batch
	gatherBytes  = 8 << 20          // of payload, about
	writers      = 4                // batches written at once
	keyedAtOnce  = 16               // keyed posts at once, if there are more connections
	writeTimeout = 10 * time.Second // of one batch
)

// post is one task on its way through the gatherer.
type post struct {
	task client.Task
	size int
	out  chan client.Outcome // capacity 1: the writer never waits for the request
}

// intake accepts single tasks. Its writers are those of run.
type intake struct {
	posts   chan *post // as many as bodies lets in
	slots   chan struct{}
	keys    keyLocks
	done    chan struct{} // closed when run returns
	metrics *metrics
}

func newIntake(posts int64, keyed int) *intake {
	return &intake{posts: make(chan *post, posts), slots: make(chan struct{}, keyed), done: make(chan struct{}), keys: keyLocks{held: map[string]chan struct{}{}}}
}

// run writes what is posted until ctx ends and all that was posted is answered.
func (in *intake) run(ctx context.Context, c *client.Client) {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() { in.write(ctx, c) })
	}
	wg.Wait()
	close(in.done)
	for { // what slipped in after the last writer looked
		select {
		case p := <-in.posts:
			p.out <- client.Outcome{Err: errStopping}
		default:
			return
		}
	}
}

func (in *intake) write(ctx context.Context, c *client.Client) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var batch []*post
		select {
		case p := <-in.posts:
			batch = append(batch, p)
		case <-ctx.Done():
			select {
			case p := <-in.posts:
				batch = append(batch, p)
			default:
				return
			}
		}
		batch = in.gather(batch, timer)
		in.commit(ctx, c, batch)
	}
}

func (in *intake) gather(batch []*post, timer *time.Timer) []*post {
	timer.Reset(gatherFor)
	bytes := batch[0].size
	for len(batch) < gatherTasks && bytes < gatherBytes {
		select {
		case p := <-in.posts:
			batch, bytes = append(batch, p), bytes+p.size
		case <-timer.C:
			return batch
		}
	}
	return batch
}

// commit writes a batch and answers each post. The requests' contexts do not
// count: one client that goes away must not take its neighbours along.
func (in *intake) commit(ctx context.Context, c *client.Client, batch []*post) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	tasks := make([]client.Task, len(batch))
	for i, p := range batch {
		tasks[i] = p.task
	}
	start := time.Now()
	out, err := c.EnqueueEach(ctx, tasks)
	in.metrics.commit.Observe(time.Since(start).Seconds())
	in.metrics.batch.Observe(float64(len(batch)))
	if err != nil {
		out = in.apart(ctx, c, tasks, err)
	}
	for i, p := range batch {
		p.out <- out[i]
	}
}

// apart decides what becomes of a batch that Postgres refused as a whole: if it
// is there, one of the tasks is to blame, and only that one fails.
func (in *intake) apart(ctx context.Context, c *client.Client, tasks []client.Task, err error) []client.Outcome {
	out := make([]client.Outcome, len(tasks))
	for i := range tasks {
		if len(tasks) == 1 && !errors.Is(err, client.ErrStillCommitting) || errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrNotMigrated) || ctx.Err() != nil {
			out[i].Err = err
			continue
		}
		out[i].Err = patiently(ctx, func() (err error) {
			out[i].Ref, err = c.Enqueue(ctx, tasks[i])
			return err
		})
	}
	return out
}

// accept waits until the task is committed or refused.
func (in *intake) accept(ctx context.Context, c *client.Client, t client.Task) (client.Ref, error) {
	if t.IdempotencyKey != "" || t.UniqueKey != "" {
		return in.acceptKeyed(ctx, c, t)
	}
	raw, _ := t.Payload.(client.Raw)
	p := &post{task: t, size: len(raw) + 512, out: make(chan client.Outcome, 1)}
	select {
	case in.posts <- p: // there is room for all that bodies lets in
	case <-in.done:
		return client.Ref{}, errStopping
	}
	select {
	case o := <-p.out:
		return o.Ref, o.Err
	case <-in.done:
		// A writer may have answered just before it ended.
		select {
		case o := <-p.out:
			return o.Ref, o.Err
		default:
			return client.Ref{}, errStopping
		}
	}
}

// acceptKeyed runs one post of a key at a time: the others wait here, where
// they cost no connection.
func (in *intake) acceptKeyed(ctx context.Context, c *client.Client, t client.Task) (client.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	key := t.Producer + "\x1f" + t.Kind + "\x1f" + t.Queue + "\x1f"
	if t.UniqueKey != "" { // shared by more posts than the other
		key += "unique\x1f" + t.UniqueKey
	} else {
		key += t.IdempotencyKey
	}
	unlock, err := in.keys.lock(ctx, key)
	if err != nil {
		return client.Ref{}, err
	}
	defer unlock()
	var ref client.Ref
	err = patiently(ctx, func() (err error) {
		select {
		case in.slots <- struct{}{}:
			defer func() { <-in.slots }()
		case <-ctx.Done():
			return errOverloaded
		}
		start := time.Now()
		ref, err = c.Enqueue(ctx, t)
		in.metrics.commit.Observe(time.Since(start).Seconds())
		in.metrics.batch.Observe(1)
		return err
	})
	return ref, err
}

// keyLocks serializes the posts of one key within this process.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the key is free
}

// lock waits for at most keyWait.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, keyWait, client.ErrStillCommitting)
	defer cancel()
	for {
		k.mu.Lock()
		free, taken := k.held[key]
		if !taken {
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// spent reports whether a task was written, or may have been: what its producer's
// quota counts.
func spent(ref client.Ref, err error) bool {
	if err == nil {
		return !ref.Replayed && !ref.Duplicate
	}
	return errors.Is(err, client.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// count notes what became of a task.
func (m *metrics) count(kind string, ref client.Ref, p *api.Problem) {
	switch {
	case p != nil:
		m.refused.WithLabelValues(p.Name()).Inc()
	case ref.Replayed:
		m.replayed.Inc()
	case ref.Duplicate:
		m.duplicate.Inc()
	default:
		m.accepted.WithLabelValues(kind).Inc()
	}
}

package app

// API requests under way: begun only while the parts run, ended before they stop.

import (
	"context"
	"sync"
	"time"
)

const (
	commitTime = 500 * time.Millisecond // an enqueue that is under way may commit
	cutAfter   = 5 * time.Second        // then the request is left behind
)

// requests counts them. The zero value takes none.
type requests struct {
	mu     sync.Mutex
	taking bool
	cancel context.CancelFunc
	ctx    context.Context
	count  sync.WaitGroup
}

func (q *requests) start() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.taking = true
}

func (q *requests) open() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taking
}

// begin returns a context that also ends with a stop; done must be called.
func (q *requests) begin(parent context.Context) (ctx context.Context, done func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.taking {
		return nil, nil, false
	}
	q.count.Add(1)
	ctx, cancel := context.WithCancel(parent)
	unlink := context.AfterFunc(q.ctx, cancel)
	return ctx, func() { unlink(); cancel(); q.count.Done() }, true
}

// stop refuses new requests, lets those that run end, then cancels them: what
// only waits (a long poll) ends by that.
func (q *requests) stop() error {
	q.mu.Lock()
	taking := q.taking
	q.taking = false
	q.mu.Unlock()
	if !taking {
		return nil
	}
	ended := make(chan struct{})
	go func() { q.count.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(commitTime):
		q.cancel()
		select {
		case <-ended:
		case <-time.After(cutAfter):
		}
	}
	q.cancel()
	return nil
}

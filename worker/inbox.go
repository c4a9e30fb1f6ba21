package worker

// Hand-over of batches from other goroutines to the pipeline's loop.

import (
	"slices"
	"sync"
)

// inbox collects items for the loop and wakes it. The zero inbox needs a wake
// channel of capacity one.
type inbox[T any] struct {
	wake  chan<- struct{}
	mu    sync.Mutex
	items []T
	spare []T
}

// put adds items; it never blocks.
func (b *inbox[T]) put(items ...T) {
	b.mu.Lock()
	b.items = append(b.items, items...)
	b.mu.Unlock()
	b.ring()
}

// putAll adds what items point to.
func (b *inbox[T]) putAll(items []*T) {
	b.mu.Lock()
	b.items = slices.Grow(b.items, len(items))
	for _, item := range items {
		b.items = append(b.items, *item)
	}
	b.mu.Unlock()
	b.ring()
}

func (b *inbox[T]) ring() {
	select {
	case b.wake <- struct{}{}:
	default: // the loop has not looked since the last one
	}
}

// take returns what was put since the last take. The slice is valid until the
// next take.
func (b *inbox[T]) take() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.items
	clear(b.spare)
	b.items, b.spare = b.spare[:0], taken
	return taken
}

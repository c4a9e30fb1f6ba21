package worker

// What waits for a time: one heap and one timer for the whole worker.

import "container/heap"

// waitingHeap is a heap by due time.
type waitingHeap []*delivery

func (h waitingHeap) Len() int           { return len(h) }
func (h waitingHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h waitingHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}

// Push implements heap.Interface.
func (h *waitingHeap) Push(x any) {
	d := x.(*delivery) //nolint:errcheck,forcetypeassert // only add pushes
	d.heapAt = len(*h)
	*h = append(*h, d)
}

// Pop implements heap.Interface.
func (h *waitingHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	d.heapAt = -1
	return d
}

func (h *waitingHeap) add(d *delivery) { heap.Push(h, d) }

func (h *waitingHeap) next() *delivery { return heap.Pop(h).(*delivery) } //nolint:errcheck,forcetypeassert // only add pushes

// remove takes out all that match.
func (h *waitingHeap) remove(match func(*delivery) bool) (out []*delivery) {
	kept := (*h)[:0]
	for _, d := range *h {
		if match(d) {
			d.heapAt = -1
			out = append(out, d)
		} else {
			d.heapAt = len(kept)
			kept = append(kept, d)
		}
	}
	clear((*h)[len(kept):])
	*h = kept
	heap.Init(h)
	return out
}

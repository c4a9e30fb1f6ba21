package worker

// Partitions come and go: assigned, revoked, lost.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/internal/tracker"
)

// assign begins a generation of each partition. The tracker is made when the
// first record comes, for only then the committed offset is known.
func (w *Worker) assign(in *intake, partitions []int32) {
	if len(partitions) == 0 {
		return
	}
	owner := fmt.Sprintf("%s/%s/%d", w.cfg.Instance, *w.boot.Load(), w.generation.Add(1))
	in.mu.Lock()
	defer in.mu.Unlock()
	var asgs []*assignment
	for _, partition := range partitions {
		delete(in.found, partition)
		a := &assignment{intake: in, partition: partition, owner: owner, drained: make(chan struct{}), position: -1}
		in.assigned[partition] = a
		asgs = append(asgs, a)
	}
	w.beginBlocks(in, asgs)
	w.log.Info("partitions assigned", "queue", in.queue, "partitions", partitions)
}

// settleIn lets the group share its partitions out anew after a successor's first
// assignment. Kafka gave it, without a rebalance, what its predecessor had at last. A
// predecessor that was killed while it gave partitions up never came to tell the group
// so: without this they would be nobody's until somebody joins or leaves.
func (in *intake) settleIn(cl *kgo.Client) {
	if in.successor {
		in.successor = false
		cl.ForceRebalance()
	}
}

// track makes the tracker of an assignment from what the group has committed. The
// id of the topic, as fetched, has the last word on whether that is about it.
func (w *Worker) track(in *intake, asg *assignment, topicID [16]byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if asg.tracker != nil {
		return nil
	}
	c, ok := in.found[asg.partition]
	if !ok {
		c.offset = -1
	}
	delete(in.found, asg.partition)
	t, err := tracker.New(c.offset, c.metadata, topicID)
	if errors.Is(err, tracker.ErrOtherTopic) {
		return err // and startExactly did not know it yet
	}
	if err != nil && c.metadata != "" {
		w.log.Info("completed offsets above the committed one are not known; claims stop what ran already",
			"queue", in.queue, "partition", asg.partition, "why", err)
	}
	asg.tracker, asg.topicID = t, topicID
	asg.position = max(asg.position, c.offset)
	return nil
}

// revoke gives partitions back while they are still ours: nothing of them
// starts any more, what runs may end within the grace period, what is complete
// is committed, and from then on no acknowledgement counts.
func (w *Worker) revoke(ctx context.Context, in *intake, partitions []int32) {
	asgs := w.take(in, partitions)
	if len(asgs) == 0 {
		return
	}
	began := time.Now()
	w.drain(ctx, asgs, w.cfg.Grace)
	w.commitLast(in, asgs)
	w.log.Info("partitions revoked", "queue", in.queue, "partitions", partitions, "took", time.Since(began).Round(time.Millisecond))
}

// lose notes that partitions are somebody else's already: nothing may be
// committed, and what runs goes on under its claim.
func (w *Worker) lose(in *intake, partitions []int32) {
	asgs := w.take(in, partitions)
	for _, a := range asgs {
		if a.tracker != nil {
			a.tracker.Revoke()
		}
	}
	if len(asgs) > 0 {
		w.p.orders.put(func(now time.Time) { w.p.drain(asgs, now) })
		w.log.Warn("partitions lost", "queue", in.queue, "partitions", partitions)
	}
}

// take removes assignments, so that polled records no longer find them.
func (w *Worker) take(in *intake, partitions []int32) (asgs []*assignment) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, partition := range partitions {
		if a := in.assigned[partition]; a != nil {
			asgs = append(asgs, a)
			delete(in.assigned, partition)
		}
		delete(in.found, partition)
	}
	return asgs
}

// drain waits until nothing of asgs is busy, for at most grace.
func (w *Worker) drain(ctx context.Context, asgs []*assignment, grace time.Duration) {
	var drained []chan struct{}
	for _, a := range asgs {
		drained = append(drained, a.drained)
	}
	w.p.orders.put(func(now time.Time) { w.p.drain(asgs, now) })
	w.log.Debug("giving partitions back: nothing of them starts any more", "partitions", len(asgs), "grace", grace)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, c := range drained {
		select {
		case <-c:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-w.loopEnded:
			return
		}
	}
}

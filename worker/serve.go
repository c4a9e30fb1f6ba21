package worker

// The goroutines of a running Worker, and the order of its stop.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/exit"
)

// leaveTimeout bounds each of the last words: a flush, leaving a group, Redis.
const leaveTimeout = 5 * time.Second

// serve runs everything until ctx ends or a queue cannot go on.
func (w *Worker) serve(ctx context.Context) error {
	// Three lives: intake ends first, then work, then what both need.
	fetch, stopFetch := context.WithCancel(ctx)
	defer stopFetch()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	calls, stopCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCalls()
	w.workCtx, w.produceCtx = work, calls
	w.p.pool = newPool(work, w)

	var background, pollers sync.WaitGroup
	background.Go(func() { w.claimLoop(calls) })
	background.Go(func() { w.settleLoop(calls) })
	background.Go(func() { w.commitLoop(calls) })
	background.Go(func() { w.cancelLoop(calls) })
	background.Go(func() { w.beatLoop(calls) })
	background.Go(func() { w.errandLoop(calls) })
	if w.blocks != nil {
		background.Go(func() {
			if err := w.blocks.Run(calls); err != nil {
				w.log.Error("the blocks of keys are not read any more", "err", err)
			}
		})
	}
	stopLoop := make(chan struct{})
	go func() {
		defer close(w.loopEnded)
		w.p.loop(stopLoop)
	}()
	failed := make(chan error, len(w.intakes))
	for _, in := range w.intakes {
		pollers.Go(func() {
			if err := w.poll(fetch, in); err != nil {
				failed <- err
			}
		})
	}
	w.log.Info("worker runs", "instance", w.cfg.Instance, "queues", w.Queues(), "concurrency", w.cfg.Concurrency)

	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	case cause = <-w.wornOut:
		cause = exit.Restart(cause)
	}
	stopFetch()
	pollers.Wait()
	w.finishWork(stopWork)
	close(stopLoop)
	<-w.loopEnded
	w.giveUpRunning()
	w.executors.Wait()
	members := w.commitAll()
	stopCalls()
	close(w.claimCalls)
	background.Wait()
	w.farewell(members)
	if cause != nil {
		return fmt.Errorf("worker: %w", cause)
	}
	w.log.Info("worker stopped", "instance", w.cfg.Instance)
	return nil
}

// finishWork lets nothing start any more and waits for what runs: the grace
// period, then, with its contexts ended, the time after which a handler would
// be abandoned.
func (w *Worker) finishWork(stopWork context.CancelFunc) {
	idle := make(chan struct{})
	w.p.orders.put(func(time.Time) { w.p.stopping, w.p.idle = true, idle })
	if !within(idle, w.cfg.Grace) {
		w.log.Warn("the grace period is over: ending what still runs", "grace", w.cfg.Grace)
		stopWork()
		within(idle, w.cfg.AbandonAfter)
	}
	stopWork()
}

func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// giveUpRunning ends the pool, and stops counting executors that did not come back. The
// loop has ended, so that its fields may be read.
func (w *Worker) giveUpRunning() {
	for _, a := range w.p.pool.close() {
		w.log.Warn("left in doubt by a stop, before it began", "task_id", a.d.task.ID, "kind", a.d.task.Kind, "queue", a.d.task.Queue, "attempt", a.d.attempt, "run", a.d.run)
	}
	for _, d := range w.p.claimed.list {
		if a := d.try; a != nil && a.state.CompareAndSwap(tryRunning, tryAbandoned) {
			w.executors.Done()
			w.log.Warn("left in doubt by a stop", "task_id", d.task.ID, "kind", d.task.Kind, "queue", d.task.Queue, "attempt", d.attempt, "run", d.run)
		}
	}
}

// commitAll commits for the last time, closes the consumers, and returns who is
// to leave which group.
func (w *Worker) commitAll() (members []member) {
	for _, in := range w.intakes {
		in.mu.Lock()
		var all []int32
		for partition := range in.assigned {
			all = append(all, partition)
		}
		in.mu.Unlock()
		w.commitLast(in, w.take(in, all))
		id, _ := in.cl.GroupMetadata()
		if in.share != nil {
			w.leaveShared(in)
		}
		in.cl.CloseAllowingRebalance()
		if id != "" {
			members = append(members, member{group: in.group, id: id})
		}
	}
	return members
}

// farewell says the last words: the producer's records, the groups, the beat.
// A static member does not leave by closing; by leaving, its partitions move at
// once instead of after the session timeout, and by naming instance and member
// a successor under the same name is not the one that leaves.
func (w *Worker) farewell(members []member) {
	flush, flushed := context.WithTimeout(context.Background(), leaveTimeout)
	if err := errors.Join(w.producer.Flush(flush), w.events.Flush(flush)); err != nil {
		w.log.Warn("some records of events or hops were not written", "err", err)
	}
	flushed()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	for _, m := range members {
		if err := w.leaveGroup(ctx, w.cfg.Instance, m); err != nil {
			w.log.Warn("could not leave the consumer group: its partitions move after the session timeout", "group", m.group, "err", err)
		}
	}
	w.events.Close()
	w.producer.Close()
	if err := w.deps.Claims.Leave(ctx, w.process()); err != nil && !errors.Is(err, claims.ErrNotOpen) {
		w.log.Warn("could not end the beat: what was left in doubt waits until it expires", "err", err)
	}
}

package worker

// Stage commit: what the trackers allow, with what lies beyond it as metadata.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/internal/tracker"
)

// commitTimeout bounds one commit, so that a broker that does not answer does
// not hold up a rebalance for longer.
const commitTimeout = 10 * time.Second

// stepCommit asks for a commit when one is due.
func (p *pipeline) stepCommit(now time.Time) {
	if p.nextCommit.IsZero() || now.Before(p.nextCommit) {
		return
	}
	p.nextCommit = time.Time{}
	select {
	case p.commitDue <- struct{}{}:
	default: // one is asked for already
	}
}

// commitLoop commits when asked, and again while that fails.
func (w *Worker) commitLoop(ctx context.Context) {
	for {
		select {
		case <-w.commitDue:
		case <-ctx.Done():
			return
		}
		again := false
		for _, in := range w.intakes {
			again = w.commitNow(ctx, in) != nil || again
		}
		if !again {
			continue
		}
		select {
		case <-time.After(w.cfg.CommitInterval):
		case <-ctx.Done():
			return
		}
		select {
		case w.commitDue <- struct{}{}:
		default:
		}
	}
}

// commitNow commits what changed in a queue's partitions. Gathering and
// committing stand under one lock with commitLast: an offset gathered before a
// revoke must not be sent after it.
func (w *Worker) commitNow(ctx context.Context, in *intake) error {
	in.commits.Lock()
	defer in.commits.Unlock()
	due := map[*tracker.Tracker]tracker.Commit{}
	parts := map[int32]*tracker.Tracker{}
	in.mu.Lock()
	for partition, asg := range in.assigned {
		if asg.tracker == nil {
			continue
		}
		if c, ok := asg.tracker.Commit(); ok {
			due[asg.tracker], parts[partition] = c, asg.tracker
		}
	}
	in.mu.Unlock()
	return w.commit(ctx, in, parts, due)
}

// commitLast revokes the trackers and commits what they came to. It is called
// while the partitions are still ours.
func (w *Worker) commitLast(in *intake, asgs []*assignment) {
	in.commits.Lock()
	defer in.commits.Unlock()
	due := map[*tracker.Tracker]tracker.Commit{}
	parts := map[int32]*tracker.Tracker{}
	for _, asg := range asgs {
		if asg.tracker == nil {
			continue
		}
		if c, ok := asg.tracker.Revoke(); ok {
			due[asg.tracker], parts[asg.partition] = c, asg.tracker
		}
	}
	// An error was logged; the next owner asks the claims about what it fetches again.
	_ = w.commit(context.Background(), in, parts, due)
}

func (w *Worker) commit(ctx context.Context, in *intake, parts map[int32]*tracker.Tracker, due map[*tracker.Tracker]tracker.Commit) error {
	if len(parts) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	large, failed := w.commitOnce(ctx, in, parts, due)
	for len(large) > 0 {
		// The broker takes less than its default. Without metadata the next owner
		// fetches again what is complete beyond the offset, and asks the claims.
		w.bareCommits.Do(func() {
			w.log.Warn("the broker takes no commit metadata of this size: committing with less, so that more is read again after a restart; raise its offset.metadata.max.bytes",
				"queue", in.queue, "needed", tracker.MaxMetadata)
		})
		for _, t := range large {
			c := due[t]
			c.Shorten()
			due[t] = c
		}
		var err error
		large, err = w.commitOnce(ctx, in, large, due)
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		w.met.commits.Inc()
		return nil
	}
	w.met.commitErrors.Inc()
	w.log.Warn("offset commit failed, trying again", "queue", in.queue, "err", failed)
	return fmt.Errorf("commit %s: %w", in.group, failed)
}

// commitOnce sends one commit. large are the partitions whose metadata the broker
// found too large: nothing of them was committed.
func (w *Worker) commitOnce(ctx context.Context, in *intake, parts map[int32]*tracker.Tracker, due map[*tracker.Tracker]tracker.Commit) (large map[int32]*tracker.Tracker, failed error) {
	offsets := make(map[int32]kgo.EpochOffset, len(parts))
	for partition, t := range parts {
		offsets[partition] = kgo.EpochOffset{Offset: due[t].Offset, Epoch: due[t].LeaderEpoch}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				p := &req.Topics[i].Partitions[j]
				metadata := due[parts[p.Partition]].Metadata
				p.Metadata = &metadata
			}
		}
		return nil
	})
	in.cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{in.topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				failed = err
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					tr, err := parts[p.Partition], kerr.ErrorForCode(p.ErrorCode)
					switch {
					case errors.Is(err, kerr.OffsetMetadataTooLarge) && tr != nil && due[tr].Metadata != "":
						if large == nil {
							large = map[int32]*tracker.Tracker{}
						}
						large[p.Partition] = tr
					case err != nil:
						failed = errors.Join(failed, fmt.Errorf("partition %d: %w", p.Partition, err))
					case tr != nil:
						tr.Committed(due[tr])
					}
				}
			}
		})
	return large, failed
}

package worker

// This worker and the others as members of consumer groups: who is removed by
// whom, and how one that was removed comes back.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/dlq"
	"github.com/perdure/perdure/internal/claims"
)

// member is a process's place in a consumer group.
type member struct{ group, id string }

// heartbeatEvery is how soon a member learns of a rebalance, and so how long a
// dead worker's partitions wait for the slowest of the living: about ten
// heartbeats a second and process, whatever the number of its queues.
func (w *Worker) heartbeatEvery() time.Duration {
	every := 100 * time.Millisecond * time.Duration(max(len(w.Queues()), 1))
	return max(min(every, w.cfg.SessionTimeout/6), 50*time.Millisecond)
}

// line is what a beat tells the others: "group member-id" for each group, so
// that they can name exactly this life of the process when they remove it; and
// what the replayer asks for, which release runs.
func (w *Worker) line() string {
	var b strings.Builder
	for _, in := range w.intakes {
		if id, _ := in.cl.GroupMetadata(); id != "" {
			b.WriteString(in.group)
			b.WriteByte(' ')
			b.WriteString(id)
			b.WriteByte('\n')
		}
	}
	// Also before it has a group: it is to be seen. The release as its letters have it.
	b.WriteString(claims.Told{Release: dlq.Clip(w.cfg.Release, dlq.MaxErrorClass), Queues: w.Queues()}.String())
	return b.String()
}

func parseLine(line string) (members []member) {
	for l := range strings.Lines(line) {
		if group, id, ok := strings.Cut(strings.TrimSuffix(l, "\n"), " "); ok {
			members = append(members, member{group: group, id: id})
		}
	}
	return members
}

// errand is what a beat found to be done that needs Kafka, and so is not done by
// the goroutine that beats.
type errand struct {
	dead  claims.Peer   // its Process is "" = nobody
	pause time.Duration // after its removal, until the next in the whole fleet
	stale bool          // some partitions are held under a name of this process that was called dead
}

// send hands over an errand unless one is under way: the next beat finds again
// what is left to do.
func (w *Worker) send(e errand) {
	if e.dead.Process == "" && !e.stale {
		return
	}
	select {
	case w.errands <- e:
	default:
	}
}

// errandLoop does errands until ctx ends, one at a time.
func (w *Worker) errandLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.errands:
			call, cancel := context.WithTimeout(ctx, leaveTimeout)
			if e.stale {
				w.leaveStale(call)
			}
			if e.dead.Process != "" {
				if err := w.remove(call, e.dead, e.pause); err != nil && ctx.Err() == nil {
					w.log.Warn("could not remove a silent worker, trying again", "worker", e.dead.Process, "err", err)
				}
			}
			cancel()
		}
	}
}

// remove takes a silent worker out: first its claims, in the one step in which
// Redis still sees the beats that this worker saw, then its places in Kafka. Who
// is removed though it lives is fenced by both, and comes back by itself.
func (w *Worker) remove(ctx context.Context, dead claims.Peer, pause time.Duration) error {
	mine, err := w.deps.Claims.Bury(ctx, w.name(), dead, pause)
	if err != nil || !mine {
		return err
	}
	instance, _, _ := strings.Cut(dead.Process, "/")
	for _, m := range parseLine(dead.Line) {
		if err := w.leaveGroup(ctx, instance, m); err != nil {
			return fmt.Errorf("group %s: %w", m.group, err)
		}
	}
	w.met.removals.Inc()
	w.log.Warn("removed a silent worker: what it ran is in doubt and runs elsewhere", "worker", dead.Process, "silence", w.cfg.Silence)
	return w.deps.Claims.Forget(ctx, dead.Process)
}

// leaveGroup takes a static member out of a group. Both names are given: the
// instance alone would also mean a successor of the same name, who must stay.
func (w *Worker) leaveGroup(ctx context.Context, instance string, m member) error {
	gone := kmsg.NewLeaveGroupRequestMember()
	gone.MemberID, gone.InstanceID = m.id, &instance
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = m.group
	req.Members = append(req.Members, gone)
	resp, err := req.RequestWith(ctx, w.producer)
	if err != nil {
		return err
	}
	err = kerr.ErrorForCode(resp.ErrorCode)
	for _, r := range resp.Members {
		err = errors.Join(err, kerr.ErrorForCode(r.ErrorCode))
	}
	if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.FencedInstanceID) {
		return nil // not a member any more
	}
	return err
}

// newBoot draws the nonce that tells this life from all others of its instance.
func (w *Worker) newBoot() {
	nonce := strings.ToLower(rand.Text()[:10])
	w.boot.Store(&nonce)
}

// comeBack follows a removal by others: this process was stopped, or cut off,
// for longer than the silence. Its claims may be somebody else's by now, so it
// takes a new name; what still runs under the old one may complete (done is
// accepted from everybody) and fails its compare-and-set otherwise.
func (w *Worker) comeBack(ctx context.Context) error {
	was := w.name()
	w.newBoot()
	w.met.removed.Inc()
	w.log.Warn("the others removed this worker while it was silent (stopped, starved or cut off): it joins again, and what it ran may run elsewhere",
		"was", was, "now", w.name())
	_, err := w.deps.Claims.BeatAndLook(ctx, w.process(), w.line(), false)
	w.reenterShared()
	return err
}

// staleOwners reports whether partitions are assigned under a name that was
// called dead: Redis grants them nothing, and Kafka may not have been told.
func (w *Worker) staleOwners() bool {
	for _, in := range w.intakes {
		if w.staleIn(in) {
			return true
		}
	}
	return false
}

func (w *Worker) staleIn(in *intake) bool {
	now := w.name() + "/"
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, a := range in.assigned {
		if !strings.HasPrefix(a.owner, now) {
			return true
		}
	}
	return false
}

// leaveStale leaves the groups in which partitions are held under an old name;
// the client then loses them and joins again. The member id is read before the
// look: as long as such partitions are there, it is the old one.
func (w *Worker) leaveStale(ctx context.Context) {
	for _, in := range w.intakes {
		id, _ := in.cl.GroupMetadata()
		if id == "" || !w.staleIn(in) {
			continue
		}
		if err := w.leaveGroup(ctx, w.cfg.Instance, member{group: in.group, id: id}); err != nil {
			w.log.Warn("could not leave a group to join it again, trying again", "group", in.group, "err", err)
		}
	}
}

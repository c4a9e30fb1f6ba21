package worker

// Whose name it is: a restarted process takes the place of its predecessor, and
// two that live must not share one.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/perdure/perdure/internal/claims"
)

// nameWait is how long another process may beat under this one's name before
// this one gives up.
const nameWait = 3 * time.Second

// maxNamesakes are the dead of one name that may be silent together: their name
// is all that they have in common.
const maxNamesakes = 1 << 20

var errNameTaken = errors.New("another living process has this name")

// takeName calls every earlier life of this instance dead, so that what it held
// is in doubt at once. A lock on the name proves that it is; without one its
// beats must have stopped. errNameTaken: they did not.
func (w *Worker) takeName(ctx context.Context) error {
	every := w.cfg.beatEvery()
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	beats := newWatch(every, w.cfg.Silence)
	beats.most = maxNamesakes
	for {
		asked := time.Now()
		peers, err := w.deps.Claims.Peers(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		peers = slices.DeleteFunc(peers, func(p claims.Peer) bool { return !strings.HasPrefix(p.Process, w.cfg.Instance+"/") })
		if now.Sub(began) >= nameWait && beats.heard(peers) {
			return fmt.Errorf("instance %s: %w (it has beaten for %v): give each process its own PERDURE_INSTANCE, or stop the other first",
				w.cfg.Instance, errNameTaken, nameWait)
		}
		silent, _ := beats.look(asked, now, peers)
		left := len(peers)
		for i := range peers {
			p := &peers[i]
			known := w.cfg.NameHeld || p.Gone
			if !known && p != silent {
				continue
			}
			over, err := w.deps.Claims.Succeed(ctx, *p, known)
			if err != nil {
				return err
			}
			if over { // else it has beaten just now
				w.log.Info("takes the place of an earlier process of this name", "was", p.Process)
				left--
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// describeWait bounds the question below: Kafka may be away when a worker starts.
const describeWait = time.Second

// successor asks in which groups this instance has a place already. Where Kafka does
// not say, it has one: a rebalance too many costs nobody anything.
func (w *Worker) successor(ctx context.Context) func(group string) bool {
	ctx, cancel := context.WithTimeout(ctx, describeWait)
	defer cancel()
	var groups []string
	for _, q := range w.Queues() {
		groups = append(groups, w.deps.Names.WorkerGroup(q))
	}
	described, err := kadm.NewClient(w.producer).DescribeGroups(ctx, groups...)
	return func(group string) bool {
		d, ok := described[group]
		if errors.Is(d.Err, kerr.GroupIDNotFound) {
			return false
		}
		if !ok && err != nil || d.Err != nil {
			return true
		}
		return slices.ContainsFunc(d.Members, func(m kadm.DescribedGroupMember) bool {
			return m.InstanceID != nil && *m.InstanceID == w.cfg.Instance
		})
	}
}

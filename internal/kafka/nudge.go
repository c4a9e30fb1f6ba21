package kafka

// Share groups whose lag stands still. With each answer the broker writes two numbers,
// from which Kafka computes how much of a partition is left: the group's start, and how
// many records from there on are finished. It reads one after the other, and what it writes
// for two workers at a time can arrive in the other order (Kafka 4.3): then records that
// are finished count as left until somebody answers for another one. On a queue with
// nothing more to do that is never.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// A task of hours looks the same as a lag that is wrong, until a nudge is answered, which
// rewrites both numbers. What that told holds for a day, not for ever: the task may have
// ended in the moment of the answer.
const (
	nudgePause  = time.Minute
	nudgePauses = time.Hour
	nudgeDoubt  = 24 * time.Hour
	nudgeWait   = 10 * time.Second // for Kafka to take one
)

// nudgeable ends the client id of a share group's member that knows what a nudge is.
const nudgeable = "-nudgeable"

// Nudgeable makes of a worker's client id that of its share group's consumer: an older
// worker would make a dead letter of a nudge, so that none is made while one is a member.
func Nudgeable(clientID string) string { return clientID + nudgeable }

// Nudger gives a share group something to answer for where its lag is above zero and
// stands still. Its zero value is ready.
type Nudger struct {
	mu   sync.Mutex
	seen map[nudgePlace]*nudgeLook
}

type nudgePlace struct {
	group, topic string
	partition    int32
}

type nudgeLook struct {
	at     Progress // at the last look
	before Progress // the last nudge; zero = Kafka took none
	nudged time.Time
	pause  time.Duration // after it
}

// Look looks at a group and returns how many partitions it nudged: those with something
// left, and the same as at the look before.
func (n *Nudger) Look(ctx context.Context, cl *kgo.Client, group, topic string) (nudged int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	adm := kadm.NewClient(cl)
	progress, err := ShareProgress(ctx, adm, group, topic)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	var recs []*kgo.Record
	for partition, at := range progress {
		if n.still(nudgePlace{group, topic, partition}, at, now) {
			recs = append(recs, &kgo.Record{Topic: topic, Partition: partition, Headers: []kgo.RecordHeader{{Key: schemas.HeaderNudge, Value: []byte("1")}}})
		}
	}
	if len(recs) == 0 {
		return 0, nil
	}
	members, err := shareMembers(ctx, adm, group)
	// Without a member nobody answers, and the lag is a backlog.
	if err != nil || len(members) == 0 || slices.ContainsFunc(members, isOlder) {
		return 0, err
	}
	for _, r := range recs {
		n.seen[nudgePlace{group, topic, r.Partition}].next(now)
	}
	if err := send(ctx, cl, recs); err != nil {
		return 0, fmt.Errorf("kafka: nudge share group %s on %s: %w", group, topic, err)
	}
	for _, r := range recs {
		l := n.seen[nudgePlace{group, topic, r.Partition}]
		l.before = l.at
	}
	return len(recs), nil
}

func isOlder(m kadm.ShareGroupMember) bool { return !strings.HasSuffix(m.ClientID, nudgeable) }

// still notes a look and reports whether a nudge is due.
func (n *Nudger) still(place nudgePlace, at Progress, now time.Time) bool {
	l := n.seen[place]
	switch {
	case at.Left <= 0, at.End < 0: // all is finished, nothing is known, or the topic has no such partition
		delete(n.seen, place)
		return false
	case l == nil:
		if n.seen == nil {
			n.seen = map[nudgePlace]*nudgeLook{}
		}
		n.seen[place] = &nudgeLook{at: at}
		return false
	case l.at.Start != at.Start:
		*l = nudgeLook{at: at}
		return false
	}
	same := l.at == at
	l.at = at
	return same && now.Sub(l.nudged) >= l.hold()
}

// next notes a nudge that Kafka has not taken yet.
func (l *nudgeLook) next(now time.Time) {
	l.pause = min(max(2*l.pause, nudgePause), nudgePauses)
	l.nudged, l.before = now, Progress{}
}

// hold is how long after the last nudge there is none.
func (l *nudgeLook) hold() time.Duration {
	came := l.at.End - l.before.End
	switch {
	case l.before == Progress{} || came <= 0 || l.at.Left < l.before.Left:
		return l.pause
	case came > 1:
		return nudgePauses // there were other records: it may be that no answer came alone
	}
	// As much left as before: what is left is in hand. More: so is the nudge.
	return nudgeDoubt
}

// send produces nudges with a client of its own: what Kafka does not take in time is given
// up, which must not be what else cl produces. Two of one do no harm.
func send(ctx context.Context, cl *kgo.Client, recs []*kgo.Record) error {
	opts := cl.Opts()
	out, err := kgo.NewClient(append(opts[:len(opts):len(opts)], kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.DisableIdempotentWrite(), kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(nudgeWait))...)
	if err != nil {
		return err
	}
	defer out.Close() // waits for no answer
	ctx, cancel := context.WithTimeout(ctx, nudgeWait)
	defer cancel()
	done := make(chan error, len(recs))
	for _, r := range recs {
		out.Produce(ctx, r, func(_ *kgo.Record, err error) { done <- err })
	}
	for range recs {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
		case <-ctx.Done(): // whatever the client does with one that is in flight
			return context.Cause(ctx)
		}
	}
	return nil
}

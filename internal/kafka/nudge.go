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
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/schemas"
)

// A task of hours looks the same as a lag that is wrong: the pause between two
// nudges of a partition grows for as long as they change nothing.
const (
	nudgePause  = time.Minute
	nudgePauses = time.Hour
)

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
	at    Progress      // at the last look
	pause time.Duration // after the last nudge
	next  time.Time     // no nudge before
}

// Look looks at a group and returns how many partitions it nudged: those with something
// left, and the same as at the look before. cl partitions by key, as Kafka's own clients do.
func (n *Nudger) Look(ctx context.Context, cl *kgo.Client, group, topic string) (nudged int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	adm := kadm.NewClient(cl)
	progress, err := ShareProgress(ctx, adm, group, topic)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	var due []int32
	for partition, at := range progress {
		if n.still(nudgePlace{group, topic, partition}, at, now) {
			due = append(due, partition)
		}
	}
	if len(due) == 0 {
		return 0, nil
	}
	// Without a member nobody answers, and the lag is a backlog.
	if members, err := ShareMembers(ctx, adm, group); err != nil || members == 0 {
		return 0, err
	}
	details, err := adm.ListTopics(ctx, topic)
	if err == nil {
		err = details[topic].Err
	}
	if err != nil {
		return 0, fmt.Errorf("kafka: list topic %s: %w", topic, err)
	}
	recs := make([]*kgo.Record, len(due))
	for i, partition := range due {
		l := n.seen[nudgePlace{group, topic, partition}]
		l.pause = min(max(2*l.pause, nudgePause), nudgePauses)
		l.next = now.Add(l.pause)
		recs[i] = nudge(topic, partition, len(details[topic].Partitions))
	}
	if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		return 0, fmt.Errorf("kafka: nudge share group %s on %s: %w", group, topic, err)
	}
	return len(recs), nil
}

// still notes a look and reports whether a nudge is due.
func (n *Nudger) still(place nudgePlace, at Progress, now time.Time) bool {
	l := n.seen[place]
	switch {
	case at.Left <= 0: // all is finished, or nothing is known
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
	return same && !now.Before(l.next)
}

// nudge is a record that is no task. Its key is one of the partition's.
func nudge(topic string, partition int32, partitions int) *kgo.Record {
	r := &kgo.Record{Topic: topic, Headers: []kgo.RecordHeader{{Key: schemas.HeaderNudge, Value: []byte("1")}}}
	for i := 0; ; i++ {
		if r.Key = strconv.AppendInt(nil, int64(i), 10); PartitionOf(r.Key, partitions) == partition {
			return r
		}
	}
}

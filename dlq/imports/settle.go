package imports

// Letters that were under way when a process ended: looked for where they would
// lie. This run holds the topic's lock, so nobody is sending them; and every claim
// is older than the time within which its process could still have sent.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/schemas"
)

func (r *run) settle(ctx context.Context) error {
	list, wait, err := r.db.doubts(ctx, r)
	if err != nil || len(list) == 0 {
		return err
	}
	if r.o.Notice != nil {
		r.o.Notice(fmt.Sprintf("%d letters were under way when an import ended: looking for them at their destinations (in %.0fs)", len(list), max(wait, 0)))
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(wait * float64(time.Second))):
	}
	at := map[target][]*inDoubt{}
	for _, x := range list {
		at[x.to] = append(at[x.to], x)
	}
	for to, some := range at {
		if err := r.lookFor(ctx, to, some); err != nil {
			return err
		}
	}
	r.at("looked")
	r.report.Settled, err = r.db.settled(ctx, r, list)
	return err
}

// lookFor reads a destination from where it ended before the letters were sent.
// What is not found was not sent, if all of it could be read: no compaction may
// have taken it, nor retention, nor anybody who deleted records.
func (r *run) lookFor(ctx context.Context, to target, list []*inDoubt) error {
	// By place alone: whichever run sent it, it was sent.
	missing := make(map[string]*inDoubt, len(list))
	from := list[0].after
	for _, x := range list {
		missing[x.in(r.o.Topic)] = x
		from = min(from, x.after)
	}
	part := foreign.Part{Topic: to.topic, ID: to.id, Partition: to.partition, From: from, Wait: r.cfg.Replicas}
	whole, err := r.deps.Cluster.Tail(ctx, part, func(rec *kgo.Record) bool {
		for _, h := range rec.Headers {
			if h.Key != schemas.HeaderImported {
				continue
			}
			_, at, _ := strings.Cut(string(h.Value), " ")
			if x := missing[at]; x != nil && rec.Offset >= x.after {
				x.at = rec.Offset
				delete(missing, at)
			}
		}
		return len(missing) == 0
	})
	switch {
	case errors.Is(err, foreign.ErrBehind):
		return fmt.Errorf("%w: %d were under way when an import ended, and cannot be looked for yet; they stay as they are: %w", ErrInDoubt, len(list), err)
	case errors.Is(err, kerr.TopicAuthorizationFailed): // and never will be read by this user
	case err != nil:
		return fmt.Errorf("look for letters in doubt: %w", err)
	}
	if whole && len(missing) > 0 {
		d := &dest{name: to.topic}
		if err := r.ask(ctx, d); err != nil {
			return err
		}
		whole = !d.compacted && d.told
	}
	for _, x := range list {
		x.whole = whole
	}
	return nil
}

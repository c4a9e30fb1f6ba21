package balance

// One range of ids: read, in the order of Compute's argument, and classify.

import (
	"context"
	"fmt"
	"time"

	"github.com/perdure/perdure/internal/claims"
)

// chunk classifies the tasks of [lo, hi), which is one chunk of done bits.
func (c *computation) chunk(ctx context.Context, lo, hi int64) error {
	list, replays, err := c.accepted(ctx, lo, hi)
	if err != nil {
		return err
	}
	c.report.Replayed += replays
	c.report.Accepted += int64(len(list))
	if len(list) == 0 {
		return nil
	}
	// Done is absorbing: whenever it is read, it holds. Most tasks end here.
	if err := c.doneBits(ctx, lo/claims.ChunkBits, list); err != nil {
		return err
	}
	rest := list[:0]
	for _, t := range list {
		if t.done {
			c.report.Completed++
			continue
		}
		rest = append(rest, t)
	}
	return c.place(ctx, rest, func(t *task, p place) {
		if p.class == lost {
			c.suspect = append(c.suspect, t)
			return
		}
		c.report.count(p)
	})
}

// place finds out where tasks are whose rows were read, and tells each.
func (c *computation) place(ctx context.Context, list []*task, tell func(*task, place)) error {
	if len(list) == 0 {
		return nil
	}
	w, err := c.look(ctx)
	if err != nil {
		return err
	}
	if err := c.deaths(ctx, list); err != nil {
		return err
	}
	ids := make([]string, len(list))
	for i, t := range list {
		ids[i] = t.id(c.Source)
	}
	known, err := c.Claims.Get(ctx, ids...)
	if err != nil {
		return fmt.Errorf("read claims: %w", err)
	}
	for i, t := range list {
		t.claim = known[i]
		for _, h := range []*hop{t.hop, t.replayHop()} {
			if h != nil {
				h.acked = w.acked(h.topic, h.partition, h.offset)
			}
		}
		tell(t, classify(t, w))
	}
	return nil
}

func (t *task) replayHop() *hop {
	if t.replay == nil {
		return nil
	}
	return t.replay.hop
}

func (c *computation) doneBits(ctx context.Context, chunk int64, list []*task) error {
	bits := map[int][]byte{}
	for _, t := range list {
		b, ok := bits[t.generation]
		if !ok {
			var err error
			if b, err = c.Claims.DoneBits(ctx, c.Source, t.generation, chunk); err != nil {
				return err
			}
			bits[t.generation] = b
		}
		i := t.seq % claims.ChunkBits
		t.done = int(i/8) < len(b) && b[i/8]&(0x80>>(i%8)) != 0
	}
	return nil
}

// settle looks again at what seemed lost: a task that was moving has arrived.
func (c *computation) settle(ctx context.Context) error {
	why := map[*task]string{}
	for range 2 {
		if len(c.suspect) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(c.Settle):
		}
		if err := c.again(ctx, why); err != nil {
			return err
		}
	}
	if err := c.search(ctx); err != nil {
		return err
	}
	for _, t := range c.suspect {
		c.report.Lost++
		if len(c.report.LostIDs) < maxNamed {
			c.report.LostIDs = append(c.report.LostIDs, LostTask{ID: t.id(c.Source), Why: why[t]})
		}
	}
	return nil
}

// again reads the suspects' rows anew, a chunk at a time, and places them.
func (c *computation) again(ctx context.Context, why map[*task]string) error {
	suspects := c.suspect
	c.suspect = nil
	clear(why)
	for len(suspects) > 0 {
		lo := suspects[0].seq / claims.ChunkBits * claims.ChunkBits
		want := map[int64]bool{}
		for len(suspects) > 0 && suspects[0].seq < lo+claims.ChunkBits {
			want[suspects[0].seq] = true
			suspects = suspects[1:]
		}
		fresh, _, err := c.accepted(ctx, lo, lo+claims.ChunkBits)
		if err != nil {
			return err
		}
		list := fresh[:0]
		for _, t := range fresh {
			if want[t.seq] {
				list = append(list, t)
				delete(want, t.seq)
			}
		}
		c.report.Accepted -= int64(len(want)) // their rows left the history meanwhile
		if err := c.place(ctx, list, func(t *task, p place) {
			if p.class == lost {
				c.suspect = append(c.suspect, t)
				why[t] = p.why
				return
			}
			c.report.count(p)
		}); err != nil {
			return err
		}
	}
	return nil
}

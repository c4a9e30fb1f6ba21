package claims

// How runs end: done, wait, dead; and what was only taken, or given up.

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// Done marks tasks as completed, by whichever owner. It is absorbing and may be
// repeated. On an error nothing is known: say it again before anything else.
func (s *Store) Done(ctx context.Context, owner string, done []Outcome) ([]DoneResult, error) {
	out := make([]DoneResult, len(done))
	rest, err := s.finish(ctx, owner, done, out)
	if err != nil {
		return nil, fmt.Errorf("claims: done: %w", err)
	}
	if len(rest) == 0 {
		return out, nil
	}
	one := func(i int) *Outcome { return &done[rest[i]] }
	flags, err := batchesOf(ctx, s, doneScript, owner, len(rest), func(b *batch, i int) error {
		return b.addDone(&s.k, one(i).TaskID, one(i).Epoch, runParts(one(i).Run))
	}, s.cfg.Horizon.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("claims: done: %w", err)
	}
	for i, f := range flags {
		out[rest[i]] = DoneResult{Resolve: f&1 != 0, Mine: f&2 != 0}
		s.settleLease(one(i).Lease, one(i).TaskID)
	}
	return out, nil
}

// Wait turns runs that failed and may be tried again into waiting claims. false:
// the claim is not this owner's any more: produce nothing, commit nothing, ask
// Claim again about the record. May be repeated.
func (s *Store) Wait(ctx context.Context, owner string, o []WaitOutcome) ([]bool, error) {
	flags, err := batches(ctx, s, waitScript, owner, o, func(b *batch, o *WaitOutcome) error {
		if o.NextAttempt < 1 {
			return fmt.Errorf("task %s: next attempt %d: want at least 1", o.TaskID, o.NextAttempt)
		}
		return b.addDone(&s.k, o.TaskID, runParts(o.Run), o.NextAttempt, ms(o.Due), flag(o.Local), o.History, span(o.Elsewhere))
	}, s.cfg.Horizon.Milliseconds())
	if err == nil {
		for i := range o {
			s.settleLease(o[i].Lease, o[i].TaskID)
		}
	}
	return bools(flags, "wait", err)
}

// Dead ends tasks of which nothing more is tried: true: produce the letter, then
// acknowledge. false: the claim is not this owner's (Run > 0), or the record
// would not have been granted (Run = 0): do nothing, ask Claim. May be repeated.
func (s *Store) Dead(ctx context.Context, owner string, o []DeadOutcome) ([]bool, error) {
	flags, err := batches(ctx, s, deadScript, owner, o, func(b *batch, o *DeadOutcome) error {
		r := Record{TaskID: o.TaskID, Epoch: o.Epoch, Attempt: o.Attempt}
		if err := r.Check(); err != nil {
			return err
		}
		if o.Reason == "" {
			return fmt.Errorf("task %s: dead without a reason", o.TaskID)
		}
		return b.addDone(&s.k, o.TaskID, o.Epoch, o.Attempt, o.Coord.text(), runParts(o.Run), o.Reason, o.History)
	}, s.cfg.Horizon.Milliseconds())
	if err == nil {
		for i := range o {
			s.settleLease(o[i].Lease, o[i].TaskID)
		}
	}
	return bools(flags, "dead", err)
}

// HandBack returns claims under which nothing was started to what stood before
// them; run and crashes are kept. What is not this owner's is left alone.
func (s *Store) HandBack(ctx context.Context, owner string, held []Hold) error {
	_, err := batches(ctx, s, handBackScript, owner, held, func(b *batch, h *Hold) error {
		return b.addDone(&s.k, h.TaskID, "r", runParts(h.Run))
	}, s.cfg.Horizon.Milliseconds(), s.k.void(""), voidTTL.Milliseconds())
	if err != nil {
		return fmt.Errorf("claims: hand back: %w", err)
	}
	s.settleLeases(held)
	return nil
}

// Abandon gives up runs whose handler cannot be stopped: they are in doubt from
// now on, though their owner beats. The handler may still say Done later.
func (s *Store) Abandon(ctx context.Context, owner string, held []Hold) ([]bool, error) {
	return s.release(ctx, owner, "abandon", held)
}

// Cancelled is an owner's answer to a cancel (Claim.Cancel): the run ended
// without effect. true: acknowledge. May be repeated.
func (s *Store) Cancelled(ctx context.Context, owner string, held []Hold) ([]bool, error) {
	return s.release(ctx, owner, "cancel", held)
}

func (s *Store) release(ctx context.Context, owner, op string, held []Hold) ([]bool, error) {
	flags, err := batches(ctx, s, releaseScript, owner, held, func(b *batch, h *Hold) error {
		return b.addDone(&s.k, h.TaskID, runParts(h.Run))
	}, op, s.cfg.Horizon.Milliseconds())
	if err == nil {
		s.settleLeases(held)
	}
	return bools(flags, op, err)
}

// Settled drops the history of claims whose retry or letter Kafka has
// acknowledged and whose source offset is committed: nothing will be made from
// it again. Optional: it only frees memory.
func (s *Store) Settled(ctx context.Context, held []Hold) error {
	inc, err := s.opened()
	if err != nil {
		return err
	}
	for len(held) > 0 {
		n := min(len(held), maxBatch)
		b := batch{keys: []string{s.k.inc}, args: []any{inc.token}}
		for _, h := range held[:n] {
			b.add(s.k.claim(h.TaskID))
			b.args = append(b.args, runParts(h.Run))
		}
		if _, err := s.run(ctx, settledScript, inc, b.keys, b.args); err != nil {
			return fmt.Errorf("claims: settle %d histories: %w", n, err)
		}
		held = held[n:]
	}
	return nil
}

// batch is the keys and arguments of one script call.
type batch struct {
	keys  []string
	args  []any
	chunk chunkKey
}

func (b *batch) add(key string) { b.keys = append(b.keys, key) }

// addDone adds a claim's key, its chunk's key, its bit and args.
func (b *batch) addDone(k *keys, taskID string, args ...any) error {
	key, bit, err := b.chunk.of(k, taskID)
	if err != nil {
		return err
	}
	b.keys = append(b.keys, k.claim(taskID), key)
	b.args = append(append(b.args, bit), args...)
	return nil
}

// batches runs sc over items, at most maxBatch a call, with the arguments
// incarnation, owner, more..., then each item's. It returns each item's answer.
func batches[T any](ctx context.Context, s *Store, sc *redis.Script, owner string, items []T, add func(*batch, *T) error, more ...any) ([]int64, error) {
	return batchesOf(ctx, s, sc, owner, len(items), func(b *batch, i int) error { return add(b, &items[i]) }, more...)
}

// batchesOf is batches of items that are known by number.
func batchesOf(ctx context.Context, s *Store, sc *redis.Script, owner string, items int, add func(*batch, int) error, more ...any) ([]int64, error) {
	inc, err := s.opened()
	if err != nil {
		return nil, err
	}
	if _, err := process(owner); err != nil {
		return nil, err
	}
	out := make([]int64, 0, items)
	for from := 0; from < items; {
		n := min(items-from, maxBatch)
		b := batch{
			keys: append(make([]string, 0, 1+2*n), s.k.inc),
			args: append(append(make([]any, 0, 4+9*n), inc.token, owner), more...),
		}
		for i := from; i < from+n; i++ {
			if err := add(&b, i); err != nil {
				return nil, err
			}
		}
		res, err := s.run(ctx, sc, inc, b.keys, b.args)
		if err != nil {
			return nil, err
		}
		list, err := replies(res, n)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			f, ok := v.(int64)
			if !ok {
				return nil, fmt.Errorf("unexpected answer %T", v)
			}
			out = append(out, f)
		}
		from += n
	}
	return out, nil
}

func bools(flags []int64, what string, err error) ([]bool, error) {
	if err != nil {
		return nil, fmt.Errorf("claims: %s: %w", what, err)
	}
	out := make([]bool, len(flags))
	for i, f := range flags {
		out[i] = f == 1
	}
	return out, nil
}

// span is d in milliseconds, "" for none.
func span(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

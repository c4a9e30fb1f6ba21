package claims

// Reading claims: for people, for the replayer, for balance.

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Cancel asks that a task be not run (again). The claim that is returned says
// what came of it: Cancelled; Running with Cancel set, where the owner decides;
// Dead and Done are left as they are. It needs no Open. ErrLost: this Redis has
// no incarnation yet; no worker has opened it.
func (s *Store) Cancel(ctx context.Context, id string) (Claim, error) {
	key, bit, err := s.k.done(id)
	if err != nil {
		return Claim{}, err
	}
	inc, want := s.current.Load(), ""
	if inc != nil {
		want = inc.token
	}
	res, err := s.run(ctx, cancelScript, inc, []string{s.k.inc, s.k.claim(id), key}, []any{want, bit})
	if err != nil {
		return Claim{}, fmt.Errorf("claims: cancel %s: %w", id, err)
	}
	list, err := replies(res, 2)
	if err != nil {
		return Claim{}, fmt.Errorf("claims: cancel %s: %w", id, err)
	}
	if number(list[0]) == 1 {
		return Claim{State: Done}, nil
	}
	fields, _ := list[1].([]any)
	c, err := readClaim(fields)
	if err != nil {
		return Claim{}, fmt.Errorf("claims: cancel %s: %w", id, err)
	}
	return c, nil
}

// Get reads claims, in the order of ids, in one pipeline. It needs no Open. None
// means that Redis knows nothing of the task: never seen, or forgotten.
func (s *Store) Get(ctx context.Context, ids ...string) ([]Claim, error) {
	out := make([]Claim, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), maxBatch)
		pipe := s.rdb.Pipeline()
		bits, hashes := make([]*redis.IntCmd, n), make([]*redis.MapStringStringCmd, n)
		for i, id := range ids[:n] {
			key, bit, err := s.k.done(id)
			if err != nil {
				return nil, err
			}
			// The claim first: a task completed between the two is seen as done,
			// never as unknown.
			hashes[i] = pipe.HGetAll(ctx, s.k.claim(id))
			bits[i] = pipe.GetBit(ctx, key, bit)
		}
		life := pipe.Get(ctx, s.k.inc)
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("claims: get %d claims from %s: %w", n, ids[0], err)
		}
		for i := range n {
			var c Claim
			for name, value := range hashes[i].Val() {
				if err := c.set(name, value); err != nil {
					return nil, fmt.Errorf("claims: get %s: %w", ids[i], err)
				}
			}
			if bits[i].Val() == 1 {
				c = Claim{State: Done}
			}
			if now, _, _ := strings.Cut(life.Val(), " "); c.State == Running || c.State == Waiting {
				then, _, _ := strings.Cut(hashes[i].Val()["k"], ".")
				c.Stale = then != now
			}
			out = append(out, c)
		}
		ids = ids[n:]
	}
	return out, nil
}

// DoneBits returns a chunk's bitmap: bit seq mod ChunkBits, counted from the
// highest bit of the first byte, is set if that task is done. Shorter than 4 KiB
// where only zeros follow; nil where none is done.
func (s *Store) DoneBits(ctx context.Context, source string, generation int, chunk int64) ([]byte, error) {
	b, err := s.rdb.Get(ctx, s.k.chunk(source, generation, chunk)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claims: done bits of %s-%d, chunk %d: %w", source, generation, chunk, err)
	}
	return b, nil
}

// Present returns the incarnation that Redis holds now, whichever this store has
// opened; 0 where it holds none: flushed, lost, or never used. It needs no Open.
func (s *Store) Present(ctx context.Context) (int64, error) {
	text, err := s.rdb.Get(ctx, s.k.inc).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("claims: read %s: %w", s.k.inc, err)
	}
	inc, err := parseIncarnation(text)
	if err != nil {
		return 0, err
	}
	return inc.n, nil
}

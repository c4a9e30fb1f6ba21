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
	res, err := s.run(ctx, cancelScript, inc, []string{s.k.inc, s.k.claim(id), key}, []any{want, bit, s.cfg.Horizon.Milliseconds()})
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

// Get reads claims, in the order of ids, up to 500 a call. It needs no Open. None
// means that Redis knows nothing of the task: never seen, or forgotten.
func (s *Store) Get(ctx context.Context, ids ...string) ([]Claim, error) {
	out := make([]Claim, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), maxBatch)
		b := batch{keys: []string{s.k.inc}}
		for _, id := range ids[:n] {
			if err := b.addDone(&s.k, id); err != nil {
				return nil, err
			}
		}
		res, err := s.run(ctx, getScript, nil, b.keys, b.args)
		if err != nil {
			return nil, fmt.Errorf("claims: get %d claims from %s: %w", n, ids[0], err)
		}
		list, err := replies(res, n+1)
		if err != nil {
			return nil, fmt.Errorf("claims: get %d claims from %s: %w", n, ids[0], err)
		}
		life, _ := list[0].(string)
		for i, one := range list[1:] {
			c, err := readStanding(one, life)
			if err != nil {
				return nil, fmt.Errorf("claims: get %s: %w", ids[i], err)
			}
			out = append(out, c)
		}
		ids = ids[n:]
	}
	return out, nil
}

// readStanding reads {done, field, value, ...}; life is the value of inc.
func readStanding(one any, life string) (Claim, error) {
	fields, ok := one.([]any)
	if !ok || len(fields) == 0 {
		return Claim{}, fmt.Errorf("unexpected answer %T", one)
	}
	if number(fields[0]) == 1 {
		return Claim{State: Done}, nil
	}
	c, err := readClaim(fields[1:])
	if err != nil {
		return c, err
	}
	if c.State == Running || c.State == Waiting {
		now, _, _ := strings.Cut(life, " ")
		token := ""
		for i := 1; i+1 < len(fields); i += 2 {
			if fields[i] == "k" {
				token, _ = fields[i+1].(string)
			}
		}
		then, _, _ := strings.Cut(token, ".")
		c.Stale = then != now
	}
	return c, nil
}

// Life is what an owner's beat says.
type Life string

// What a beat says. It expires after Config.BeatTTL, so one that is Silent has
// been for that long; its claims may be granted to others.
const (
	Beats  Life = "beats"
	Silent Life = "silent"
	Gone   Life = "gone" // it was called dead
)

// LifeOf says whether the process of an owner beats. It needs no Open.
func (s *Store) LifeOf(ctx context.Context, owner string) (Life, error) {
	proc, err := process(owner)
	if err != nil {
		return "", err
	}
	beat, err := s.rdb.Get(ctx, s.k.beat(proc)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return Silent, nil
	case err != nil:
		return "", fmt.Errorf("claims: beat of %s: %w", proc, err)
	case beat == string(Gone):
		return Gone, nil
	}
	return Beats, nil
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

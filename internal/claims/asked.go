package claims

// Which of the runs that an owner holds were asked to end.

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// CancelAsked says of each run whether a cancel was asked while it stands, in one
// pipeline of reads. It changes nothing; the owner answers with Cancelled, or by
// whatever else the run came to.
func (s *Store) CancelAsked(ctx context.Context, held []Hold) ([]bool, error) {
	if len(held) == 0 {
		return nil, nil
	}
	pipe := s.rdb.Pipeline()
	reads := make([]*redis.SliceCmd, len(held))
	for i, h := range held {
		reads[i] = pipe.HMGet(ctx, s.k.claim(h.TaskID), "s", "x", "r")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("claims: ask whether %d runs are cancelled: %w", len(held), err)
	}
	out := make([]bool, len(held))
	for i, h := range held {
		v := reads[i].Val()
		out[i] = v[0] == string(Running) && v[1] == "1" && v[2] == runParts(h.Run)
	}
	return out, nil
}

// Signs counts what was heard of runs that go on in other processes (Hear), in
// one pipeline of reads; a count that changes is a sign of life.
func (s *Store) Signs(ctx context.Context, held []Hold) ([]int64, error) {
	if len(held) == 0 {
		return nil, nil
	}
	pipe := s.rdb.Pipeline()
	reads := make([]*redis.SliceCmd, len(held))
	for i, h := range held {
		reads[i] = pipe.HMGet(ctx, s.k.heard(h.TaskID), "r", "n")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("claims: ask for signs of %d runs: %w", len(held), err)
	}
	out := make([]int64, len(held))
	for i, h := range held {
		if v := reads[i].Val(); v[0] == runParts(h.Run) {
			out[i] = number(v[1])
		}
	}
	return out, nil
}

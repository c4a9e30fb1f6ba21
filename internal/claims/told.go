package claims

// What a worker says of itself to others than its watchers: the release of the user's
// code, and of which queues it runs tasks.

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Told is one of the lines that a worker gives to BeatAndLook.
type Told struct {
	Release string // PERDURE_RELEASE; "" = not known
	Queues  []string
}

// String is the line, with no newline and no space in it: watchers of an older version
// take a line without a space for nothing.
func (t Told) String() string {
	return url.Values{"release": {t.Release}, "queue": t.Queues}.Encode()
}

// ReadTold finds what a peer told among its lines; ok is false where it told nothing, as
// workers of older versions do.
func ReadTold(lines string) (t Told, ok bool) {
	for l := range strings.Lines(lines) {
		l = strings.TrimSuffix(l, "\n")
		if strings.Contains(l, " ") || !strings.Contains(l, "release=") {
			continue
		}
		if v, err := url.ParseQuery(l); err == nil {
			return Told{Release: v.Get("release"), Queues: v["queue"]}, true
		}
	}
	return t, false
}

// Living are the processes that beat, with what they say of themselves. It needs no Open,
// and changes nothing.
func (s *Store) Living(ctx context.Context) ([]Peer, error) {
	lines, err := s.rdb.HGetAll(ctx, s.k.members).Result()
	if err != nil {
		return nil, fmt.Errorf("claims: read who beats: %w", err)
	}
	if len(lines) == 0 {
		return nil, nil
	}
	beats := make(map[string]*redis.StringCmd, len(lines))
	_, err = s.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for process := range lines {
			beats[process] = pipe.Get(ctx, s.k.beat(process))
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("claims: read who beats: %w", err)
	}
	living := make([]Peer, 0, len(lines))
	for process, line := range lines {
		text, err := beats[process].Result()
		switch {
		case errors.Is(err, redis.Nil), err == nil && text == string(Gone):
			continue
		case err != nil:
			return nil, fmt.Errorf("claims: beat of %s: %w", process, err)
		}
		p, err := readPeer([]any{process, text, line})
		if err != nil {
			return nil, err
		}
		living = append(living, p)
	}
	return living, nil
}

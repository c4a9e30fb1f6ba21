package dispatcher

// Waiting for a key that another transaction holds.

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/dispatcher/client"
)

const (
	keyWait  = 2 * time.Second        // until a post is told that its key is still committing
	keyTry   = 50 * time.Millisecond  // of a wait within Postgres, which costs a connection
	keyPause = 250 * time.Millisecond // between two of them
)

// keyedOf is how many keyed posts may be in Postgres at once: one connection less
// than there are, for the posts without a key.
func keyedOf(db DB) int {
	pool, ok := db.(interface{ Config() *pgxpool.Config })
	if !ok {
		return keyedAtOnce
	}
	return max(1, min(keyedAtOnce, int(pool.Config().MaxConns)-1))
}

// patiently tries again what met a key that another transaction holds, until
// keyWait is over or ctx ends. A pool has few connections: waiting in Postgres all
// the time, as many held keys would stop every post.
func patiently(ctx context.Context, try func() error) error {
	begun := time.Now()
	for {
		err := try()
		if !errors.Is(err, client.ErrStillCommitting) || time.Since(begun)+keyPause > keyWait {
			return err
		}
		select {
		case <-time.After(keyPause):
		case <-ctx.Done():
			return err
		}
	}
}

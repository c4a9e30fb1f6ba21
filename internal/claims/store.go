package claims

// The store: one script call a batch, every decision made inside Redis.

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxBatch is how many tasks one script call decides: it keeps Redis, which
// does nothing else meanwhile, busy for a few milliseconds at most.
const maxBatch = 500

// ErrLost means that this Redis is not the one the store opened: flushed, lost,
// failed over or raised by another worker. Nothing was changed. Call Open, then
// Reassert what is held, then go on.
var ErrLost = errors.New("claims: Redis lost its claims or was replaced: open again and re-assert what is held")

// ErrPaused means that claiming stands still for a moment, so that live workers
// can show themselves: after Redis was lost, or while this worker's own beat is
// missing. Nothing was changed; ask again after a beat.
var ErrPaused = errors.New("claims: paused until every live worker has shown itself")

// ErrGone means that the others called this process dead while it was away:
// what it held may run elsewhere. Nothing was changed. It goes on under a new
// boot nonce; what it completes late is still accepted.
var ErrGone = errors.New("claims: this process was silent and was removed: go on under a new name")

// ErrNotOpen means that the store was not opened yet.
var ErrNotOpen = errors.New("claims: the store is not open")

// Store keeps the claims in Redis. Its methods may be called concurrently.
//
// An owner is `<instance>/<boot nonce>/<assignment>`: the process part beats,
// the whole string owns. It must differ for every assignment of a partition to
// a process, and an owner never asks Claim about a record that it runs.
//
// Every error means that nothing may be concluded: never a verdict.
type Store struct {
	rdb redis.UniversalClient
	cfg Config
	k   keys

	nonce string        // tells this store's calls from all others
	calls atomic.Uint64 // the last call's number

	current atomic.Pointer[incarnation] // nil = not open
	opening sync.Mutex
	home    atomic.Pointer[redis.Client] // the cluster's node at the last identity check
	dials   atomic.Int64                 // connections begun; see identity.go
	checked atomic.Int64                 // value of dials at the last identity check
	looked  atomic.Int64                 // when that was, nanoseconds after born
	born    time.Time

	mu      sync.Mutex
	watched map[*redis.Client]bool // nodes of a cluster that have a hook
	unsure  []unsure               // see unsure.go
	spent   []*Lease               // see lease.go
}

// New returns a store that is not open yet. It adds a hook to rdb that counts
// new connections, and does no I/O.
func New(rdb redis.UniversalClient, cfg Config) (*Store, error) {
	if rdb == nil {
		return nil, errors.New("claims: a Redis client is required")
	}
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	var b [5]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("claims: draw a nonce: %w", err)
	}
	s := &Store{rdb: rdb, cfg: cfg, k: newKeys(cfg.Prefix, cfg.Cluster), nonce: hex.EncodeToString(b[:]), born: time.Now(), watched: map[*redis.Client]bool{}}
	s.watch()
	return s, nil
}

// Config returns the configuration with its defaults filled in.
func (s *Store) Config() Config { return s.cfg }

// run calls one script and turns its refusals into this package's errors.
func (s *Store) run(ctx context.Context, sc *redis.Script, inc *incarnation, keys []string, args []any) (any, error) {
	ctx, by := s.asking(ctx)
	res, err := sc.Run(ctx, s.rdb, keys, args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, refusal(err)
	}
	if inc != nil {
		if err := s.sure(ctx, inc, by); err != nil {
			return nil, err
		}
	}
	return res, nil
}

func refusal(err error) error {
	var re redis.Error
	if !errors.As(err, &re) {
		return err
	}
	switch msg := strings.TrimPrefix(re.Error(), "ERR "); {
	case strings.HasPrefix(msg, "PERDURE_LOST"):
		return ErrLost
	case strings.HasPrefix(msg, "PERDURE_PAUSED"):
		return ErrPaused
	case strings.HasPrefix(msg, "PERDURE_GONE"):
		return ErrGone
	}
	return err
}

// token names one Claim call inside a claim, with the incarnation it was made
// under: "<incarnation>.<store nonce><number>".
func (s *Store) token(inc *incarnation) string {
	return strconv.FormatInt(inc.n, 10) + "." + s.nonce + strconv.FormatUint(s.calls.Add(1), 36)
}

func (s *Store) opened() (*incarnation, error) {
	inc := s.current.Load()
	if inc == nil {
		return nil, ErrNotOpen
	}
	return inc, nil
}

func ms(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

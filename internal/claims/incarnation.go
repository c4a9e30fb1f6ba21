package claims

// The incarnation of Redis: which life of its data this is.
//
// The argument that no two lives share a number (and so no two grants a run):
//
//  1. A number is written to `inc` only by raise.lua, which checks in the same
//     instant that the gate, a key with the raiser's nonce, is still there. So
//     the raiser took the gate in the life in which it writes.
//  2. It read the ledger after it took the gate, raised it by at least one, and
//     had that acknowledged before it wrote.
//  3. Suppose life 2 got number n though life 1 had it. Life 1's write came
//     before the loss, so the ledger held n before life 2's gate was taken; its
//     raiser then read at least n and wrote at least n + 1. Contradiction.
//
// A raiser that was slow while Redis was lost once more has lost its gate, and
// begins again. Two raisers in one life: one holds the gate; the other waits and
// then finds `inc`. A gate expires; its late holder's write is refused. A number
// raised in the ledger and never written is only a gap.
//
// A life ends with the data (`inc` is gone), and with the server that held them:
// `inc` also names the server (identity.go), and a promoted replica, which may
// lack the newest claims, is another one.

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	gateTTL  = 15 * time.Second
	gatePoll = 50 * time.Millisecond
)

var errNoLedger = errors.New("claims: Config.Ledger is required to open the store")

// incarnation is the value of `inc` as this store knows it: "<n> <server>".
type incarnation struct {
	n      int64
	server string
	token  string
}

func newIncarnation(n int64, server string) *incarnation {
	return &incarnation{n: n, server: server, token: strconv.FormatInt(n, 10) + " " + server}
}

func parseIncarnation(s string) (*incarnation, error) {
	num, server, ok := strings.Cut(s, " ")
	n, err := strconv.ParseInt(num, 10, 64)
	if !ok || err != nil || n < 1 || n > maxIncarnation {
		return nil, fmt.Errorf("claims: key inc holds %q, want `<number> <server>`: another program writes under this prefix", s)
	}
	return newIncarnation(n, server), nil
}

// Incarnation returns the incarnation that the store opened, 0 before Open.
func (s *Store) Incarnation() int64 {
	if inc := s.current.Load(); inc != nil {
		return inc.n
	}
	return 0
}

// Open finds out which life of Redis this is, and begins a new one where Redis
// was flushed, lost or failed over: the ledger is raised first, then `inc` is
// written, and Redis pauses all claiming for two beats, except when there never
// was an incarnation before. Call it at start and after every ErrLost, then
// Beat, then Reassert. It may be called concurrently, and repeated.
func (s *Store) Open(ctx context.Context) error {
	if s.cfg.Ledger == nil {
		return errNoLedger
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	for {
		inc, err := s.tryOpen(ctx)
		if err != nil {
			return fmt.Errorf("claims: open: %w", err)
		}
		if inc != nil {
			s.current.Store(inc)
			return nil
		}
		select { // another holds the gate, or was quicker
		case <-ctx.Done():
			return fmt.Errorf("claims: open: wait for another worker that raises the incarnation: %w", ctx.Err())
		case <-time.After(gatePoll):
		}
	}
}

// tryOpen returns nil, nil where another worker is raising.
func (s *Store) tryOpen(ctx context.Context) (*incarnation, error) {
	if err := s.watchNodes(ctx); err != nil {
		return nil, fmt.Errorf("list the nodes of the cluster: %w", err)
	}
	node, err := s.node(ctx)
	if err != nil {
		return nil, err
	}
	dials := s.dials.Load()
	server, err := s.identity(ctx, node)
	if err != nil {
		return nil, err
	}
	text, err := s.rdb.Get(ctx, s.k.inc).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read %s: %w", s.k.inc, err)
	}
	var found *incarnation
	if text != "" {
		if found, err = parseIncarnation(text); err != nil {
			return nil, err
		}
		last, err := s.cfg.Ledger.Last(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the ledger: %w", err)
		}
		if found.server == server && found.n == last {
			s.checked.Store(dials)
			s.home.Store(node)
			return found, nil
		}
	}
	nonce := s.nonce + "." + strconv.FormatUint(s.calls.Add(1), 36)
	mine, err := s.rdb.SetNX(ctx, s.k.gate, nonce, gateTTL).Result()
	if err != nil {
		return nil, fmt.Errorf("take %s: %w", s.k.gate, err)
	}
	if !mine {
		return nil, nil
	}
	// Whatever comes of it, others need not wait for the gate to expire.
	defer s.leaveGate(ctx, nonce)
	now, err := s.rdb.Get(ctx, s.k.inc).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read %s: %w", s.k.inc, err)
	}
	if now != text {
		return nil, nil // another raised it before this one had the gate
	}
	return nil, s.raise(ctx, text, found, server, nonce)
}

// leaveGate removes the gate if it is still this raiser's; else it expires.
func (s *Store) leaveGate(ctx context.Context, nonce string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = gateScript.Run(ctx, s.rdb, []string{s.k.gate}, nonce).Err() // it expires by itself
}

// raise begins a new life; tryOpen then finds it.
func (s *Store) raise(ctx context.Context, text string, found *incarnation, server, nonce string) error {
	last, err := s.cfg.Ledger.Last(ctx) // after the gate was taken: see above
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	next, hold := last+1, s.cfg.pause()
	if found != nil && found.n >= next {
		next = found.n + 1
	}
	if found == nil && last == 0 {
		hold = 0 // nobody ever held a claim
	}
	if next > maxIncarnation {
		return fmt.Errorf("incarnation %d does not fit a run number", next)
	}
	if err := s.cfg.Ledger.Raise(ctx, next); err != nil {
		return fmt.Errorf("raise the ledger to %d: %w", next, err)
	}
	err = raiseScript.Run(ctx, s.rdb, []string{s.k.inc, s.k.gate, s.k.hold},
		text, nonce, newIncarnation(next, server).token, hold.Milliseconds()).Err()
	if err != nil {
		return fmt.Errorf("write incarnation %d: %w", next, err)
	}
	return nil
}

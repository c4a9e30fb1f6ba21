package claims

// Who lives: beats, what each process says of itself, and the mark of the dead.
// It knows nothing of Kafka: what a process says is its own and its watchers'.

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// goneFor is how long a process that was called dead cannot come back under its
// name. Afterwards its beat begins anew; its claims are guarded by their runs.
const goneFor = 24 * time.Hour

// identityEvery is how often a beat looks at which server answers, where no new
// connection asks for it at once.
const identityEvery = time.Second

// Peer is another process that said something of itself.
type Peer struct {
	Process string // <instance>/<boot nonce>
	Beats   int64  // grows while it lives; compare with an earlier look, never with a clock
	Gone    bool   // it was called dead, and nobody has called Forget yet
	Line    string // as it gave it to BeatAndLook
}

// Beat shows that the owner's process lives. Call it every Config.Interval at
// least, and once before the first Claim. ErrLost: Open again. ErrGone: go on
// under a new boot nonce.
func (s *Store) Beat(ctx context.Context, owner string) error {
	_, err := s.BeatAndLook(ctx, owner, "", false)
	return err
}

// BeatAndLook is Beat, tells the others line (a few hundred bytes at most; "" =
// nothing, and nobody watches this process), and, if look, returns what the
// others say. One call of Redis.
func (s *Store) BeatAndLook(ctx context.Context, owner, line string, look bool) ([]Peer, error) {
	act := "b"
	if look {
		act = "bl"
	}
	proc, err := process(owner)
	if err != nil {
		return nil, err
	}
	inc, err := s.opened()
	if err != nil {
		return nil, err
	}
	peers, err := s.beat(ctx, inc, proc, line, act)
	if err != nil {
		return nil, fmt.Errorf("claims: beat of %s: %w", proc, err)
	}
	if time.Since(s.born)-time.Duration(s.looked.Load()) >= min(identityEvery, s.cfg.Interval()) {
		node, err := s.node(ctx)
		if err == nil {
			err = s.verify(ctx, inc, node)
		}
		if err != nil {
			return nil, fmt.Errorf("claims: beat of %s: %w", proc, err)
		}
	}
	if err := s.settleUnsure(ctx, inc); err != nil {
		return peers, err
	}
	_, err = s.finish(ctx, owner, nil, nil) // what nobody's outcome took along
	return peers, err
}

// Peers returns what every process says of itself, without beating.
func (s *Store) Peers(ctx context.Context) ([]Peer, error) {
	inc, err := s.opened()
	if err != nil {
		return nil, err
	}
	peers, err := s.beat(ctx, inc, "", "", "l")
	if err != nil {
		return nil, fmt.Errorf("claims: look at who beats: %w", err)
	}
	return peers, nil
}

func (s *Store) beat(ctx context.Context, inc *incarnation, proc, line, act string) ([]Peer, error) {
	res, err := s.run(ctx, beatScript, inc,
		[]string{s.k.inc, s.k.beat(proc), s.k.grace, s.k.members},
		[]any{inc.token, s.cfg.BeatTTL.Milliseconds(), s.cfg.pause().Milliseconds(), proc, line, s.k.beat(""), act})
	if err != nil {
		return nil, err
	}
	list, ok := res.([]any)
	if !ok {
		return nil, fmt.Errorf("claims: unexpected answer %T", res)
	}
	peers := make([]Peer, 0, len(list))
	for _, one := range list {
		p, err := readPeer(one)
		if err != nil {
			return nil, err
		}
		peers = append(peers, p)
	}
	return peers, nil
}

func readPeer(one any) (p Peer, err error) {
	f, ok := one.([]any)
	if !ok || len(f) != 3 {
		return p, fmt.Errorf("claims: unexpected member %T", one)
	}
	p.Process, _ = f[0].(string)
	beats, _ := f[1].(string)
	p.Line, _ = f[2].(string)
	if beats == "gone" {
		p.Gone = true
		return p, nil
	}
	if p.Beats, err = strconv.ParseInt(beats, 10, 64); err != nil {
		return p, fmt.Errorf("claims: beats of %s: %w", p.Process, err)
	}
	return p, nil
}

// Bury calls a process dead: from now on its claims are in doubt at once, and
// its own beats and claims get ErrGone. It reports false if the process has
// beaten since p was read, if another removal was less than pause ago in the
// whole fleet, or if Redis was lost a moment ago. A process marked before, whose
// watcher did not get to Forget, is handed to the next that asks.
func (s *Store) Bury(ctx context.Context, watcher string, p Peer, pause time.Duration) (bool, error) {
	return s.bury(ctx, watcher, p.Process, strconv.FormatInt(p.Beats, 10), max(pause, time.Millisecond))
}

// Succeed calls a process dead that the caller takes the place of: at once if it
// is known to be (a lock that it held is the caller's now), else only if it has
// not beaten since p was read.
func (s *Store) Succeed(ctx context.Context, p Peer, known bool) (bool, error) {
	beats := strconv.FormatInt(p.Beats, 10)
	if known {
		beats = "*"
	}
	return s.bury(ctx, "", p.Process, beats, 0)
}

func (s *Store) bury(ctx context.Context, watcher, proc, beats string, lock time.Duration) (bool, error) {
	inc, err := s.opened()
	if err != nil {
		return false, err
	}
	res, err := s.run(ctx, buryScript, inc,
		[]string{s.k.inc, s.k.beat(proc), s.k.members, s.k.removing, s.k.hold},
		[]any{inc.token, proc, beats, goneFor.Milliseconds(), watcher, lock.Milliseconds()})
	if err != nil {
		return false, fmt.Errorf("claims: call %s dead: %w", proc, err)
	}
	return number(res) == 1, nil
}

// Forget ends a removal: the process is out of its groups.
func (s *Store) Forget(ctx context.Context, proc string) error {
	if err := s.rdb.HDel(ctx, s.k.members, proc).Err(); err != nil {
		return fmt.Errorf("claims: forget %s: %w", proc, err)
	}
	return nil
}

// Leave removes the process's beat: a clean stop. Whatever it still holds is in
// doubt from now on, so hand back first.
func (s *Store) Leave(ctx context.Context, owner string) error {
	proc, err := process(owner)
	if err != nil {
		return err
	}
	pipe := s.rdb.TxPipeline()
	pipe.HDel(ctx, s.k.members, proc)
	pipe.Del(ctx, s.k.beat(proc))
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("claims: leave of %s: %w", proc, err)
	}
	return nil
}

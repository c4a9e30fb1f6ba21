package claims

// Claim: who may run these records now?

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/perdure/perdure/schemas"
)

// ErrBadRecord is wrapped by the error of Record.Check and of Claim.
var ErrBadRecord = errors.New("claims: record out of range")

// Check reports why a record cannot be claimed: an id, epoch, attempt or run
// that no part of Perdure writes. Such a record is undecodable, not a task.
func (r *Record) Check() error {
	_, err := r.check()
	return err
}

func (r *Record) check() (schemas.ID, error) {
	id, err := schemas.ParseID(r.TaskID)
	switch {
	case err != nil:
		return id, fmt.Errorf("%w: id %q: %w", ErrBadRecord, r.TaskID, err)
	case r.Epoch < 0 || r.Epoch > maxEpoch:
		return id, fmt.Errorf("%w: %s has epoch %d", ErrBadRecord, r.TaskID, r.Epoch)
	case r.Attempt < 1 || r.Attempt > 1<<30:
		return id, fmt.Errorf("%w: %s has attempt %d", ErrBadRecord, r.TaskID, r.Attempt)
	case r.Run < 0 || r.Run>>schemas.RunEpochShift > int64(r.Epoch):
		return id, fmt.Errorf("%w: %s has run %d in epoch %d", ErrBadRecord, r.TaskID, r.Run, r.Epoch)
	}
	return id, nil
}

// Claim asks for recs and appends one Grant for each, in order, to grants: first
// attempts of tasks that have no claim in one script call for all, the others in
// one for each 500. Within a call an earlier record's grant
// is seen by a later one, so the same task may stand in it twice.
//
// Only what starts now may be claimed. Beat must have succeeded within the beat
// TTL. Errors: ErrLost, ErrPaused, ErrBadRecord (nothing was asked), or what
// Redis said; then no verdict was given, and a grant that was made though its
// answer was lost, also one that Redis is yet to make because the network kept the
// call back, is handed back before this store claims again, and by Beat.
func (s *Store) Claim(ctx context.Context, owner string, recs []Record, grants []Grant) ([]Grant, error) {
	if len(recs) == 0 {
		return grants, nil
	}
	inc, err := s.opened()
	if err != nil {
		return grants, err
	}
	proc, err := process(owner)
	if err != nil {
		return grants, err
	}
	ids := make([]schemas.ID, len(recs))
	for i := range recs {
		if ids[i], err = recs[i].check(); err != nil {
			return grants, err
		}
	}
	if err := s.settleUnsure(ctx, inc); err != nil {
		return grants, err
	}
	had := len(grants)
	var tokens []string // of the calls before
	grants = append(grants, make([]Grant, len(recs))...)
	for from := 0; from < len(recs); from += maxStart {
		to := min(from+maxStart, len(recs))
		token := s.token(inc)
		if err := s.claimSome(ctx, inc, proc, owner, token, recs[from:to], ids[from:to], grants[had+from:had+to]); err != nil {
			for _, t := range append(tokens, token) { // also what was granted, and nobody will hear of
				s.doubt(owner, t, recs[:to])
			}
			return grants[:had], fmt.Errorf("claims: claim %d tasks from %s: %w", len(recs), recs[0].TaskID, err)
		}
		tokens = append(tokens, token)
	}
	return grants, nil
}

// claimSome asks under one token.
func (s *Store) claimSome(ctx context.Context, inc *incarnation, proc, owner, token string, recs []Record, ids []schemas.ID, grants []Grant) error {
	rest, err := s.start(ctx, inc, proc, owner, token, recs, ids, grants)
	if err != nil {
		return err
	}
	var some []Record
	var answers []Grant
	for len(rest) > 0 {
		n := min(len(rest), maxBatch)
		some = some[:0]
		for _, i := range rest[:n] {
			some = append(some, recs[i])
		}
		if answers, err = s.claimBatch(ctx, inc, proc, owner, token, some, answers[:0]); err != nil {
			return err
		}
		for k, i := range rest[:n] {
			grants[i] = answers[k]
		}
		rest = rest[n:]
	}
	return nil
}

func (s *Store) claimBatch(ctx context.Context, inc *incarnation, proc, owner, token string, recs []Record, grants []Grant) ([]Grant, error) {
	keys := append(make([]string, 0, 5+2*len(recs)), s.k.inc, s.k.hold, s.k.grace, s.k.beat(proc), s.k.void(token))
	args := append(make([]any, 0, 7+6*len(recs)),
		inc.token, owner, s.k.beat(""), inc.n, token, s.cfg.MaxCrashes, s.cfg.Horizon.Milliseconds())
	var chunk chunkKey
	for i := range recs {
		r := &recs[i]
		key, bit, err := chunk.of(&s.k, r.TaskID)
		if err != nil {
			return grants, err
		}
		flags := ""
		if r.Once {
			flags = "o"
		}
		if r.Alone {
			flags += "a"
		}
		if r.Shared {
			flags += "s"
		}
		if r.Timer {
			flags += "e"
		}
		if r.Ends {
			flags += "x"
		}
		keys = append(keys, s.k.claim(r.TaskID), key)
		args = append(args, bit, r.Epoch, r.Attempt, r.Coord.text(), runParts(r.Run), flags)
	}
	res, err := s.run(ctx, claimScript, inc, keys, args)
	if err != nil {
		return grants, err
	}
	list, err := replies(res, len(recs))
	if err != nil {
		return grants, err
	}
	for i, one := range list {
		g, err := readGrant(one, owner, &recs[i])
		if err != nil {
			return grants, fmt.Errorf("task %s: %w", recs[i].TaskID, err)
		}
		grants = append(grants, g)
	}
	return grants, nil
}

// readGrant reads one record's answer: a run alone, granted from none, or
// {verdict, run, attempt, in doubt, claim}.
func readGrant(one any, owner string, r *Record) (Grant, error) {
	if text, ok := one.(string); ok {
		run, err := parseRun(text)
		return Grant{Verdict: VerdictRun, Run: run, Attempt: r.Attempt, Claim: Claim{
			State: Running, Epoch: r.Epoch, Attempt: r.Attempt, Run: run, Owner: owner, Coord: r.Coord,
		}}, err
	}
	f, ok := one.([]any)
	if !ok || len(f) != 5 {
		return Grant{}, fmt.Errorf("claims: unexpected answer %T", one)
	}
	fields, ok := f[4].([]any)
	if !ok {
		return Grant{}, fmt.Errorf("claims: unexpected claim %T", f[4])
	}
	c, err := readClaim(fields)
	if err != nil {
		return Grant{}, err
	}
	g := Grant{Verdict: Verdict(number(f[0])), Attempt: int(number(f[2])), InDoubt: number(f[3]) > 0, Unheard: number(f[3]) == 2, Claim: c}
	if len(fields) == 0 { // only a done task has no claim
		g.Claim.State = Done
	}
	text, _ := f[1].(string)
	g.Run, err = parseRun(text)
	return g, err
}

// chunkKey remembers the last chunk's key: tasks of a batch mostly share it.
type chunkKey struct {
	id  schemas.ID
	key string
}

func (c *chunkKey) of(k *keys, taskID string) (string, int64, error) {
	id, err := schemas.ParseID(taskID)
	if err != nil {
		return "", 0, fmt.Errorf("claims: %q: %w", taskID, err)
	}
	if c.key == "" || c.id.Source != id.Source || c.id.Generation != id.Generation || c.id.Seq/ChunkBits != id.Seq/ChunkBits {
		c.id, c.key = id, k.chunk(id.Source, id.Generation, id.Seq/ChunkBits)
	}
	return c.key, id.Seq % ChunkBits, nil
}

func (c Coord) text() string {
	b := make([]byte, 0, len(c.Topic)+24)
	b = append(append(b, c.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(c.Partition), 10), '/')
	return string(strconv.AppendInt(b, c.Offset, 10))
}

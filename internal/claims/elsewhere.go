package claims

// Work that goes on elsewhere: what is heard of it, and how it ended. These are
// said by whoever does the work, through a dispatcher; no worker holds it.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/perdure/perdure/schemas"
)

// ErrBadRun is wrapped where a run cannot be one of its task.
var ErrBadRun = errors.New("claims: no such run")

// Sign is a sign of life of one run.
type Sign struct {
	TaskID   string
	Run      int64
	Counts   time.Duration // how long it is kept if the claim does not say; at least 1 ms
	Progress []byte        // JSON; nil = as it was said last
}

// Heard is what became of a Sign.
type Heard struct {
	Counts bool          // the run is the task's present one
	For    time.Duration // the next is expected within
	Claim  Claim         // as it stands; Cancel: the run should end
}

// Hear keeps a sign of life. It decides nothing: a run that the claim does not
// have (ended, taken over, cancelled) is answered with Counts false. It needs no
// Open. Errors: ErrLost, ErrBadRun, or what Redis said.
func (s *Store) Hear(ctx context.Context, g Sign) (Heard, error) {
	list, err := s.outside(ctx, hearScript, g.TaskID, g.Run, func(bit int64) []any {
		return []any{bit, runParts(g.Run), span(max(g.Counts, time.Millisecond)), g.Progress}
	})
	if err != nil {
		return Heard{}, fmt.Errorf("claims: hear of %s: %w", g.TaskID, err)
	}
	fields, _ := list[2].([]any)
	c, err := readClaim(fields)
	if err != nil {
		return Heard{}, fmt.Errorf("claims: hear of %s: %w", g.TaskID, err)
	}
	return Heard{Counts: number(list[0]) == 1, For: time.Duration(number(list[1])) * time.Millisecond, Claim: c}, nil
}

// ReportAnswer is what became of a report.
type ReportAnswer uint8

// The answers to a report.
const (
	ReportRefused ReportAnswer = iota // not this run's to say; the claim says why
	ReportTaken
	ReportKnown // it was said before, and stands
)

// Report says that work elsewhere under a run has succeeded (failure nil), or
// how it failed: failure is kept for the worker that acts on it. A success
// counts from any run that was granted, for the effect has happened, unless the
// task is cancelled; a failure only from the run that is waited for. May be
// repeated. resolve: the task was dead, or its epoch is above 0: produce resolved.
// c is the claim as it stood. It needs no Open.
func (s *Store) Report(ctx context.Context, taskID string, run int64, failure []byte) (a ReportAnswer, resolve bool, c Claim, err error) {
	list, err := s.outside(ctx, reportScript, taskID, run, func(bit int64) []any {
		return []any{bit, s.cfg.Horizon.Milliseconds(), runParts(run), run >> schemas.RunEpochShift, failure}
	})
	if err == nil {
		fields, _ := list[2].([]any)
		c, err = readClaim(fields)
	}
	if err != nil {
		return 0, false, c, fmt.Errorf("claims: report on %s: %w", taskID, err)
	}
	switch number(list[0]) {
	case 1:
		a = ReportTaken
	case 2:
		a = ReportKnown
	}
	return a, number(list[1]) == 1, c, nil
}

// outside calls a script that one who holds nothing may call, about one task;
// its answer has three parts.
func (s *Store) outside(ctx context.Context, sc *redis.Script, taskID string, run int64, args func(bit int64) []any) ([]any, error) {
	key, bit, err := s.k.done(taskID)
	if err != nil {
		return nil, err
	}
	if run <= 0 || run>>schemas.RunEpochShift > maxEpoch {
		return nil, fmt.Errorf("%w: %d", ErrBadRun, run)
	}
	inc, want := s.current.Load(), ""
	if inc != nil {
		want = inc.token
	}
	res, err := s.run(ctx, sc, inc, []string{s.k.inc, s.k.claim(taskID), key}, append([]any{want}, args(bit)...))
	if err != nil {
		return nil, err
	}
	return replies(res, 3)
}

// Progress is what a task's work said of itself last.
type Progress struct {
	Run   int64     // that said it
	At    time.Time // by Redis's clock; zero = never
	Value []byte    // JSON; nil = not said
}

// Progress reads what was heard of a task's runs; the zero Progress is nothing.
func (s *Store) Progress(ctx context.Context, taskID string) (Progress, error) {
	v, err := s.rdb.HMGet(ctx, s.k.heard(taskID), "r", "t", "p").Result()
	if err != nil {
		return Progress{}, fmt.Errorf("claims: progress of %s: %w", taskID, err)
	}
	var p Progress
	if text, ok := v[0].(string); ok {
		p.Run, err = parseRun(text)
	}
	if at := number(v[1]); at > 0 {
		p.At = time.UnixMilli(at)
	}
	if text, ok := v[2].(string); ok {
		p.Value = []byte(text)
	}
	return p, err
}

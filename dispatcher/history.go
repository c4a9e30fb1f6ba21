package dispatcher

// History: what became of one task, put together from where it left traces.
// Nothing is written for it on the happy path.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/internal/relaylog"
	"github.com/perdure/perdure/schemas"
)

// Errors of History.Get.
var (
	ErrNeverKnown  = errors.New("no task has this id")
	ErrHistoryGone = errors.New("the task's history is gone")
)

// HistoryClaims is what a History asks of Redis.
type HistoryClaims interface {
	Get(ctx context.Context, ids ...string) ([]claims.Claim, error)
	Cancel(ctx context.Context, id string) (claims.Claim, error)
	Progress(ctx context.Context, id string) (claims.Progress, error)
}

// HistoryOffsets is what a History asks of Kafka: the offset that a group has
// committed for a partition, -1 for none.
type HistoryOffsets interface {
	Committed(ctx context.Context, group, topic string, partition int32) (int64, error)
}

// HistoryDeps are what a History uses and does not own.
type HistoryDeps struct {
	DB      *pgxpool.Pool
	Claims  HistoryClaims
	Offsets HistoryOffsets
	Names   kafka.Names
	Source  string // PERDURE_SOURCE
}

// History answers for single tasks; safe for concurrent use.
type History struct {
	deps    HistoryDeps
	waiters chan struct{} // one token a request that waits
}

// NewHistory returns a History.
func NewHistory(deps HistoryDeps) (*History, error) {
	if deps.DB == nil || deps.Claims == nil || deps.Offsets == nil || deps.Source == "" {
		return nil, errors.New("task history: it needs a database, claims, offsets and the source's name")
	}
	return &History{deps: deps, waiters: make(chan struct{}, maxWaiters)}, nil
}

// TaskView is a task as users see it.
type TaskView struct {
	ID       string             `json:"id"`
	State    schemas.State      `json:"state" enum:"scheduled,queued,running,retrying,waiting,dead,completed,cancelled,discarded"`
	Waits    schemas.WaitReason `json:"waits_for,omitempty" enum:"external,input,breaker,paused,unknown_kind"`
	Inferred bool               `json:"inferred,omitempty" doc:"Redis no longer knows the task; its record was committed and it left no letter, so it is completed"`
	Kind     string             `json:"kind,omitempty"`
	Queue    string             `json:"queue,omitempty"`
	Key      string             `json:"key,omitempty"`

	UniqueKey string `json:"unique_key,omitempty" doc:"held until the task is completed, cancelled or discarded: whoever enqueues another task with it is told of this one"`

	Epoch    int             `json:"epoch"`
	Attempt  int             `json:"attempt,omitempty" doc:"running: this one; retrying: the one it waits for"`
	Run      int64           `json:"run,omitempty"`
	Worker   string          `json:"worker,omitempty" doc:"who runs it"`
	Due      *time.Time      `json:"due,omitempty" doc:"not before"`
	Deadline *time.Time      `json:"deadline,omitempty"`
	Reason   schemas.Reason  `json:"reason,omitempty" doc:"dead: why"`
	Letter   string          `json:"letter,omitempty" doc:"dead: its letter"`
	Timeline []Hop           `json:"timeline"`
	Progress *Progress       `json:"progress,omitempty" doc:"running, or waiting for something outside: what was heard last"`
	Result   json.RawMessage `json:"result,omitempty" doc:"needs the verb read-payload"`
}

// Progress is what a task's work said of itself last.
type Progress struct {
	At    time.Time       `json:"at"`
	Value json.RawMessage `json:"value,omitempty" doc:"needs the verb read-payload"`
}

// Settled reports whether nothing more will happen by itself.
func (v *TaskView) Settled() bool {
	switch v.State {
	case schemas.StateCompleted, schemas.StateCancelled, schemas.StateDiscarded, schemas.StateDead:
		return true
	}
	return false
}

// Hop is one thing that happened to a task.
type Hop struct {
	At         time.Time  `json:"at,omitzero" doc:"absent where only that it happened is known"`
	What       string     `json:"what" doc:"accepted, scheduled, parked, held, relayed, attempt, dead, replayed, released (it waited behind a dead one of its key), completed, or the type of an event"`
	Epoch      int        `json:"epoch"`
	Topic      string     `json:"topic,omitempty"`
	Partition  *int32     `json:"partition,omitempty"`
	Offset     *int64     `json:"offset,omitempty"`
	Attempt    int        `json:"attempt,omitempty"`
	Run        int64      `json:"run,omitempty"`
	Worker     string     `json:"worker,omitempty"`
	ErrorClass string     `json:"error_class,omitempty"`
	Message    string     `json:"message,omitempty"`
	Until      *time.Time `json:"until,omitempty" doc:"attempt: its end; scheduled: when it is due"`
	Letter     string     `json:"letter,omitempty"`
	Replay     string     `json:"replay,omitempty"`
	Detail     string     `json:"detail,omitempty"`

	rank int // order of what has the same time
}

// Get returns a task with its timeline. The error is ErrNeverKnown or
// ErrHistoryGone, or what a server said.
//
// The claim is read last: a task moves while this looks, and what Redis says
// then is at least as new as the rest.
func (h *History) Get(ctx context.Context, id string) (*TaskView, error) {
	_, v, err := h.look(ctx, id)
	return v, err
}

// look is Get with what it saw; the traces are nil where the id is none of ours.
func (h *History) look(ctx context.Context, id string) (*traces, *TaskView, error) {
	parsed, err := schemas.ParseID(id)
	if err != nil || parsed.Source != h.deps.Source {
		return nil, nil, ErrNeverKnown
	}
	t := &traces{id: parsed, text: id}
	if err := t.read(ctx, h.deps.DB); err != nil {
		return nil, nil, fmt.Errorf("task %s: %w", id, err)
	}
	known, err := h.deps.Claims.Get(ctx, id)
	if err != nil {
		return nil, nil, fmt.Errorf("task %s: %w", id, &awayError{"Redis", err})
	}
	t.claim = known[0]
	if !t.row.found && len(t.letters) == 0 && t.claim.State == claims.None && len(t.hops) == 0 {
		if t.seqKnown && !t.kept {
			return t, nil, ErrHistoryGone
		}
		return t, nil, ErrNeverKnown
	}
	v := t.view()
	if err := h.state(ctx, t, v); err != nil {
		return nil, nil, fmt.Errorf("task %s: %w", id, err)
	}
	if v.Progress, err = h.progress(ctx, id, v); err != nil {
		return nil, nil, fmt.Errorf("task %s: %w", id, err)
	}
	t.timeline(v)
	return t, v, nil
}

// progress is what was heard of the run that the task has now; nil = nothing.
func (h *History) progress(ctx context.Context, id string, v *TaskView) (*Progress, error) {
	if v.State != schemas.StateRunning && v.Waits != schemas.WaitExternal {
		return nil, nil
	}
	p, err := h.deps.Claims.Progress(ctx, id)
	if err != nil {
		return nil, &awayError{"Redis", err}
	}
	if p.Run != v.Run || p.At.IsZero() {
		return nil, nil
	}
	return &Progress{At: p.At.UTC(), Value: p.Value}, nil
}

// awayError names the server that did not answer.
type awayError struct {
	what string
	err  error
}

func (e *awayError) Error() string { return e.what + ": " + e.err.Error() }
func (e *awayError) Unwrap() error { return e.err }

// lastHop is where the newest record of the task went, if the log says so.
func (t *traces) lastHop() (relaylog.Hop, bool) {
	for i := len(t.hops) - 1; i >= 0; i-- {
		if t.hops[i].ok {
			return t.hops[i].hop, i == len(t.hops)-1
		}
	}
	return relaylog.Hop{}, false
}

package dispatcher

// Why is a task not finished? One sentence and one command, from the traces that
// the history reads and from what may hold the task where it is.
//
// Nothing is guessed: what cannot be seen from here is said to be so.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure/schemas"
)

// Why is the answer.
type Why struct {
	TaskID   string         `json:"task_id"`
	State    schemas.State  `json:"state" enum:"scheduled,queued,running,retrying,waiting,dead,completed,cancelled,discarded"`
	Why      string         `json:"why" doc:"one sentence; times are UTC"`
	Command  string         `json:"command" doc:"what to run next"`
	Cause    Cause          `json:"cause" doc:"the same for programs; new ones may come"`
	Since    *time.Time     `json:"since,omitempty" doc:"since when the cause holds, as far as is known"`
	Until    *time.Time     `json:"until,omitempty" doc:"when something happens by itself"`
	Evidence map[string]any `json:"evidence,omitempty" doc:"what was found, by cause"`
}

// StateUnknown is the state of an id under which nothing is known. It is not a
// state of tasks: the API answers 404 or 410 for it.
const StateUnknown schemas.State = "unknown"

// Cause names a reason.
type Cause string

// The causes. The first group is of StateUnknown.
const (
	CauseNeverAccepted Cause = "no_such_task"
	CauseOtherSource   Cause = "other_source"
	CauseNotCommitted  Cause = "not_committed" // or of another transaction that is open: nobody can see its rows
	CauseRolledBack    Cause = "rolled_back"
	CauseReplayRow     Cause = "replay_row"
	CauseHistoryGone   Cause = "history_gone"

	CauseNoRelay     Cause = "no_relay"
	CauseRelayHalted Cause = "relay_halted"
	CauseKafkaAway   Cause = "kafka_away"
	CauseRelayBehind Cause = "relay_behind"
	CauseRelayNext   Cause = "relay_next" // it was accepted a moment ago
	CauseParked      Cause = "parked"
	CauseHeld        Cause = "held"
	CauseScheduled   Cause = "scheduled"

	CauseNoWorker    Cause = "no_worker"
	CauseUnassigned  Cause = "unassigned" // workers are there, and none has its partition
	CauseBehind      Cause = "behind"
	CauseEarlier     Cause = "earlier_of_key"
	CauseBreaker     Cause = "breaker"
	CauseUnknownKind Cause = "unknown_kind"
	CauseNothing     Cause = "nothing_known"

	CauseRunning    Cause = "running"
	CauseCancelling Cause = "cancelling"
	CauseInDoubt    Cause = "in_doubt"
	CauseRetry      Cause = "retry"
	CauseExternal   Cause = "external"

	CauseDead       Cause = "dead"
	CauseNotIndexed Cause = "not_indexed" // dead, and the index does not have the letter yet
	CauseLetterHeld Cause = "letter_held"
	CauseBlocked    Cause = "blocked" // on_dead: block: it waits behind a dead task of its key
	CauseInPlan     Cause = "in_plan" // dead, and a replay that is not over has it
	CauseCompleted  Cause = "completed"
	CauseCancelled  Cause = "cancelled"
	CauseDiscarded  Cause = "discarded"
)

// UnknownBy reports whether a cause is one of StateUnknown.
func UnknownBy(c Cause) bool {
	switch c {
	case CauseNeverAccepted, CauseOtherSource, CauseNotCommitted, CauseRolledBack, CauseReplayRow, CauseHistoryGone:
		return true
	}
	return false
}

// OutboxFacts is what an Explainer asks of the outbox and its relay.
type OutboxFacts struct {
	Owner   string // of the lease; "" = nobody has relayed yet
	Alive   bool
	Until   time.Time // the lease's end
	Fence   int64
	MovedAt time.Time // zero = never
	Backlog int64     // counted up to 100,000
	Oldest  time.Duration
	Parked  map[string]int64 // queue → tasks
	Open    []OpenTransaction
}

// OpenTransaction is one in progress.
type OpenTransaction struct {
	Name   string    // who holds it open
	Since  time.Time // zero = hidden from this role
	Writes bool      // it has written to the outbox
}

// GroupFacts is what an Explainer asks of a consumer group and one partition.
type GroupFacts struct {
	Members   int
	State     string // as Kafka names it
	Holder    string // who has the partition; "" = nobody, or not known
	Shared    bool   // a share group: no partition has a holder
	Committed int64  // -1 = none
	End       int64
}

// WhyDeps are what an Explainer uses beyond a History. All are required.
type WhyDeps struct {
	Catalog *schemas.Catalog
	Groups  interface {
		Group(ctx context.Context, group, topic string, partition int32) (GroupFacts, error)
		Members(ctx context.Context, group string) (int, error)
	}
	Life   func(ctx context.Context, owner string) (beats bool, err error) // whether an owner's process beats
	Outbox func(ctx context.Context) (OutboxFacts, error)
	Halted func(ctx context.Context) (halt string, err error) // what a relay that began now would halt with; "" = nothing
}

// Explainer says why tasks are not finished; safe for concurrent use.
type Explainer struct {
	history *History
	deps    WhyDeps
	now     func() time.Time
}

// NewExplainer returns an Explainer over h.
func NewExplainer(h *History, deps WhyDeps) (*Explainer, error) {
	if h == nil || deps.Catalog == nil || deps.Groups == nil || deps.Life == nil || deps.Outbox == nil || deps.Halted == nil {
		return nil, errors.New("explainer: it needs a history, a catalog, groups, beats, the outbox and the relay's examination")
	}
	return &Explainer{history: h, deps: deps, now: time.Now}, nil
}

// Explain answers for a task, also for an id that is none: State is StateUnknown
// then. The error is what a server said without which nothing is known.
func (e *Explainer) Explain(ctx context.Context, id string) (*Why, error) {
	t, v, err := e.history.look(ctx, id)
	a := &asking{Explainer: e, ctx: ctx, id: id, t: t, v: v, now: e.now()}
	var w *Why
	switch {
	case errors.Is(err, ErrNeverKnown), errors.Is(err, ErrHistoryGone):
		w, err = a.unknown(err)
	case err != nil:
		return nil, err
	default:
		a.kind = e.deps.Catalog.Kind(v.Kind)
		w, err = a.known()
	}
	if err != nil {
		return nil, fmt.Errorf("why of task %s: %w", id, err)
	}
	return w, nil
}

// asking is one question under way.
type asking struct {
	*Explainer
	ctx  context.Context
	id   string
	t    *traces
	v    *TaskView     // nil: nothing is known under the id
	kind *schemas.Kind // nil = not in the dispatcher's catalog
	now  time.Time
}

func (a *asking) known() (*Why, error) {
	switch v := a.v; v.State {
	case schemas.StateCompleted:
		return a.completed(), nil
	case schemas.StateCancelled:
		return a.cancelled(), nil
	case schemas.StateDiscarded:
		return a.discarded(), nil
	case schemas.StateDead:
		return a.dead()
	case schemas.StateRunning:
		return a.running()
	case schemas.StateRetrying:
		return a.retrying()
	case schemas.StateWaiting:
		return a.waiting()
	}
	if hop, newest := a.t.lastHop(); newest {
		return a.queued(hop)
	}
	return a.inPostgres()
}

// say makes the answer: a sentence without its end, and a command.
func (a *asking) say(cause Cause, command, format string, args ...any) *Why {
	w := &Why{TaskID: a.id, State: StateUnknown, Cause: cause, Command: command, Why: fmt.Sprintf(format, args...)}
	if a.v != nil {
		w.State = a.v.State
	}
	return w
}

// since and until note times, unless they are not known.
func (w *Why) since(t time.Time) *Why { w.Since = utcOrNil(t); return w }
func (w *Why) until(t time.Time) *Why { w.Until = utcOrNil(t); return w }

// found notes evidence: names and values, in turn.
func (w *Why) found(pairs ...any) *Why {
	if w.Evidence == nil {
		w.Evidence = map[string]any{}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		w.Evidence[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return w
}

func utcOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

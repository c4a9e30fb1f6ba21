package dispatcher

// POST /v1/tasks/{id}/cancel.

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
	"github.com/perdure/perdure/schemas"
)

// Cancelling is the answer while the worker that runs the task decides.
const Cancelling = "cancelling"

// CancelAnswer says what came of a cancel.
type CancelAnswer struct {
	ID    string `json:"id"`
	State string `json:"state" enum:"cancelled,cancelling" doc:"cancelled: it will not run (again). cancelling: it runs now; its worker ends it, unless it completes first: ask for the task"`
}

type cancelInput struct {
	ID string `path:"id"`
}

type cancelOutput struct{ Body *CancelAnswer }

// ErrNotCancellable is wrapped when a task is beyond cancelling.
var ErrNotCancellable = errors.New("the task cannot be cancelled any more")

func (h *History) cancelRoutes(a *api.API) {
	api.Register(a, api.Kill, huma.Operation{
		OperationID: "cancel-task", Method: http.MethodPost, Path: "/v1/tasks/{id}/cancel", Tags: []string{"tasks"},
		Summary: "Cancel a task that is not settled",
	}, func(ctx context.Context, in *cancelInput) (*cancelOutput, error) {
		answer, err := h.Cancel(ctx, in.ID)
		if err != nil {
			return nil, cancelProblem(err)
		}
		return &cancelOutput{answer}, nil
	})
}

// Cancel asks that a task be not run (again). It looks at the history first: a
// task that is settled, or that Redis has forgotten, must not become cancelled.
// A unique key that a cancelled task held is given back before the answer.
func (h *History) Cancel(ctx context.Context, id string) (*CancelAnswer, error) {
	v, err := h.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if v.State == schemas.StateCancelled {
		return h.cancelled(ctx, id) // as it was asked before; that caller may not have come so far
	}
	if v.Settled() {
		return nil, &settledError{id, v.State, "it is " + string(v.State)}
	}
	claim, err := h.deps.Claims.Cancel(ctx, id)
	if err != nil {
		return nil, &awayError{"Redis", err} // also claims.ErrLost: no worker has opened it
	}
	switch claim.State {
	case claims.Cancelled:
		return h.cancelled(ctx, id)
	case claims.Running:
		return &CancelAnswer{ID: id, State: Cancelling}, nil
	case claims.Done:
		return nil, &settledError{id, schemas.StateCompleted, "it is completed"}
	}
	return nil, &settledError{id, schemas.StateDead, "it is dead, and if it is being replayed it can be cancelled once it runs again"}
}

// cancelled answers for a task that will not run, whatever becomes of this process
// now: its record, when it comes, gives the key back too.
func (h *History) cancelled(ctx context.Context, id string) (*CancelAnswer, error) {
	if err := ReleaseUnique(ctx, h.deps.DB, id); err != nil {
		return nil, err
	}
	return &CancelAnswer{ID: id, State: string(schemas.StateCancelled)}, nil
}

// ReleaseUnique gives back the unique key of a task that has ended for good, if it
// held one.
func ReleaseUnique(ctx context.Context, db *pgxpool.Pool, id string) error {
	if _, err := db.Exec(ctx, `select perdure.release_unique(array[$1])`, id); err != nil {
		return fmt.Errorf("task %s has ended; give its unique key back: %w", id, err)
	}
	return nil
}

// settledError says in which state a cancel came too late.
type settledError struct {
	id    string
	state schemas.State // what it is instead
	why   string
}

func (e *settledError) Error() string { return "task " + e.id + " cannot be cancelled: " + e.why }

func (e *settledError) Unwrap() error { return ErrNotCancellable }

func cancelProblem(err error) error {
	var settled *settledError
	if !errors.As(err, &settled) {
		return taskProblem(err)
	}
	return api.NewProblem(http.StatusConflict, "not-cancellable", settled.Error()).WithNext("perdure tasks get " + settled.id)
}

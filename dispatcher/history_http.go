package dispatcher

// GET /v1/tasks/{id}[?wait=30s].

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/perdure/perdure/internal/api"
	"github.com/perdure/perdure/internal/claims"
)

const (
	maxWaiters = 256              // requests that wait at once; more are answered without waiting
	maxWait    = 60 * time.Second // longest wait of one request
	lookAgain  = 2 * time.Second  // how often a waiting request looks beyond the claim
)

type taskInput struct {
	ID   string `path:"id"`
	Wait string `query:"wait" doc:"answer only when the task is completed, cancelled, discarded or dead, or this long has passed; a Go duration, at most 60s"`
}

type taskOutput struct{ Body *TaskView }

// Routes registers GET /v1/tasks/{id} and POST /v1/tasks/{id}/cancel.
func (h *History) Routes(a *api.API) {
	h.cancelRoutes(a)
	api.Register(a, api.ReadMeta, huma.Operation{
		OperationID: "get-task", Method: http.MethodGet, Path: "/v1/tasks/{id}", Tags: []string{"tasks"},
		Summary: "State and timeline of a task",
	}, h.httpGet)
}

func (h *History) httpGet(ctx context.Context, in *taskInput) (*taskOutput, error) {
	var wait time.Duration
	if in.Wait != "" {
		var err error
		if wait, err = time.ParseDuration(in.Wait); err != nil || wait < 0 {
			return nil, api.NewProblem(http.StatusUnprocessableEntity, "invalid-request", "wait is not a duration",
				api.FieldError{Pointer: "#/query/wait", Detail: "must be a duration, as in 30s"})
		}
	}
	v, err := h.Await(ctx, in.ID, min(wait, maxWait))
	if err != nil {
		return nil, taskProblem(err)
	}
	if !api.Can(ctx, api.ReadPayload) {
		v.Result = nil
		if v.Progress != nil {
			v.Progress.Value = nil
		}
	}
	return &taskOutput{Body: v}, nil
}

func taskProblem(err error) error {
	var away *awayError
	switch {
	case errors.Is(err, ErrNeverKnown):
		return api.NewProblem(http.StatusNotFound, "no-such-task", "no task has this id").
			WithNext("check the id: <source>-<generation>-<seq>, as enqueue answered it; another source has another dispatcher")
	case errors.Is(err, ErrHistoryGone):
		return api.NewProblem(http.StatusGone, "history-gone", "the task was accepted; its history is older than PERDURE_HISTORY").
			WithNext("perdure config shows PERDURE_HISTORY")
	case errors.As(err, &away):
		return api.NewProblem(http.StatusServiceUnavailable, "unavailable", away.what+" does not answer, and without it the task's state is not known").
			WithRetryAfter(time.Second).WithNext("perdure doctor")
	}
	return err
}

// Await is Get, but returns only when the task is settled or limit has passed.
// It asks Redis alone most of the time.
func (h *History) Await(ctx context.Context, id string, limit time.Duration) (*TaskView, error) {
	v, err := h.Get(ctx, id)
	if err != nil || limit <= 0 || v.Settled() {
		return v, err
	}
	select {
	case h.waiters <- struct{}{}:
		defer func() { <-h.waiters }()
	default:
		return v, nil
	}
	end, look := time.Now().Add(limit), time.Now().Add(lookAgain)
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		timer.Reset(min(pause, max(0, time.Until(end))))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
		}
		over := !time.Now().Before(end)
		known, err := h.deps.Claims.Get(ctx, id)
		if err != nil && !over {
			continue // Redis may come back within the wait
		}
		moved := err == nil && (known[0].State == claims.Done || known[0].State == claims.Dead || known[0].State == claims.Cancelled)
		if !over && !moved && time.Now().Before(look) {
			continue
		}
		look = time.Now().Add(lookAgain)
		if v, err = h.Get(ctx, id); err != nil || over || v.Settled() {
			return v, err
		}
	}
}
